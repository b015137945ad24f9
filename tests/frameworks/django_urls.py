"""Views that show a test when and where Django runs them, beside the example's own."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path
from django.views.decorators.gzip import gzip_page

import aiowsgi

from .serving import PATIENCE, Probe

probe = Probe()


def gated(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(probe.gated_blocks())


def endless(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(probe.endless_blocks())


def midway(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(probe.failing_blocks())


def meet(request: HttpRequest, token: str) -> HttpResponse:
    """Answer once every thread is here, so that all run at the same time."""
    request.session["token"] = token
    request.session.save()
    probe.barrier.wait(PATIENCE)
    request.session["token"] += " again"
    return JsonResponse(
        {
            "token": token,
            "session": request.session["token"],
            "path": request.path,
            "header": request.headers["X-Token"],
            "cookie": request.COOKIES["token"],
            "thread": threading.current_thread().name,
        }
    )


async def events() -> AsyncIterator[bytes]:
    yield b"parked "
    yield b"by Django"


@gzip_page
def parked(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(aiowsgi.park(request.META, events()), content_type="text/event-stream")


@gzip_page
def parked_and_joined(request: HttpRequest) -> HttpResponse:
    """Have Django join the body, which is empty, and give it a Content-Length."""
    return HttpResponse(aiowsgi.park(request.META, events()), content_type="text/event-stream")


urlpatterns = [
    path("parked/", parked),
    path("parked-and-joined/", parked_and_joined),
    path("gated/", gated),
    path("endless/", endless),
    path("midway/", midway),
    path("meet/<token>/", meet),
    path("", include("project.urls")),
]
