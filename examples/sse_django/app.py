"""Jobs whose progress every open tab sees, in Django and one file.

Run it in this folder with ``aiowsgi app:application``.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from pathlib import Path

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

import aiowsgi

STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0.2"))
STEP_COUNT = 20

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
    USE_TZ=True,
)

PAGE = (Path(__file__).parent / "page.html").read_text()


class Job:
    """A job with a channel of its own, whose history has all that the job has said."""

    def __init__(self, number: int) -> None:
        self.channel = aiowsgi.Channel(f"job {number}", history=STEP_COUNT + 2)
        self.first_id = self.channel.send("0", event="progress")
        self.last_id: str | None = None  # until it has ended

    def work(self) -> None:
        """Do the job. Any thread may send, and a task queue's worker would, too."""
        for step in range(1, STEP_COUNT + 1):
            time.sleep(STEP_SECONDS)
            self.channel.send(str(100 * step // STEP_COUNT), event="progress")
        self.last_id = self.channel.send("", event="done")
        self.channel.close()


# All jobs that are begun.
begun = aiowsgi.Channel("begun")
jobs: dict[int, Job] = {}
numbers = itertools.count(1)


def stream(request: HttpRequest, channel: aiowsgi.Channel) -> StreamingHttpResponse:
    body = aiowsgi.park(request.environ, aiowsgi.sse(channel, request.environ, retry=2))
    return StreamingHttpResponse(body, content_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse(PAGE)


@require_POST
def start(request: HttpRequest) -> JsonResponse:
    number = next(numbers)
    jobs[number] = Job(number)
    threading.Thread(target=jobs[number].work, daemon=True).start()
    begun.send(str(number))
    return JsonResponse({"job": number}, status=201)


@require_GET
def progress(request: HttpRequest, number: int) -> HttpResponseBase:
    if number not in jobs:
        raise Http404
    job = jobs[number]
    # A browser that comes back gets what it has missed, also after the end; a new one gets all from the beginning.
    if request.environ.setdefault("HTTP_LAST_EVENT_ID", job.first_id) == job.last_id:
        return HttpResponse(status=204)
    return stream(request, job.channel)


@require_GET
def beginnings(request: HttpRequest) -> HttpResponseBase:
    return stream(request, begun)


urlpatterns = [
    path("", index),
    path("events", beginnings),
    path("jobs", start),
    path("jobs/<int:number>/events", progress),
]

application = get_wsgi_application()
