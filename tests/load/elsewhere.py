"""An application with none of the routes that a load test asks, and one that lacks one of them."""

from load.shop import make_app
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def tickets(_request):
    return PlainTextResponse("none")


app = Starlette(routes=[Route("/tickets", tickets)])


def without_messages():
    """Everything else is there."""
    shop = make_app(leaks=False)
    shop.router.routes = [route for route in shop.router.routes if route.path != "/messages"]
    return shop
