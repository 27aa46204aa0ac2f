"""Who asks is put into request.state once a request; in uvicorn 0.21.0 that state was the connection's."""

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


class Profile:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            if "name" not in state:
                state["name"] = dict(scope["headers"])[b"x-name"].decode()
        await self.app(scope, receive, send)


async def me(request):
    return JSONResponse(request.state.name)


app = Profile(Starlette(routes=[Route("/me", me)]))
