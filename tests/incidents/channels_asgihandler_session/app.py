"""Django behind Channels; one AsgiHandler object of 3.0.2 kept scope and send of whichever request came last."""

import time

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of this test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.sessions", "channels"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    CACHES={
        "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}}
    },
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
)
django.setup()

from channels.http import AsgiHandler  # noqa: E402 - Django has to be set up before
from channels.routing import ProtocolTypeRouter  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


def login(request):
    request.session["name"] = request.META["HTTP_X_NAME"]
    return HttpResponse("welcome")


def me(request):
    time.sleep(0.002)
    return HttpResponse(request.session.get("name"))


urlpatterns = [path("login", login), path("me", me)]
app = ProtocolTypeRouter({"http": AsgiHandler()})
