"""Views that show a test when and where Django runs them, beside the example's own."""

from __future__ import annotations

import threading

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path

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


urlpatterns = [
    path("gated/", gated),
    path("endless/", endless),
    path("midway/", midway),
    path("meet/<token>/", meet),
    path("", include("project.urls")),
]
