"""A Django view that renders a template behind its usual middleware; no database.

Thread: worker.
"""

from __future__ import annotations

from pathlib import Path

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

__all__ = ["application"]

settings.configure(
    ALLOWED_HOSTS=["*"],
    DEBUG=False,
    LOGGING_CONFIG=None,
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no use to anybody",
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [Path(__file__).parent / "templates"],
        }
    ],
)
django.setup(set_prefix=False)


def hello(request: HttpRequest) -> HttpResponse:
    """Answer the readiness check."""
    return HttpResponse("Hello, world!")


def orders(request: HttpRequest) -> HttpResponse:
    """Render a page with twenty rows."""
    rows = [{"number": number, "customer": f"Customer <{number}>", "total": number * 12.5} for number in range(1, 21)]
    return render(request, "orders.html", {"title": "Orders", "orders": rows})


urlpatterns = [path("hello", hello), path("orders", orders)]
application = WSGIHandler()
