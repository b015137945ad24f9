"""Calling an application and delivering what it returns: PEP 3333 in the order of the specification.

Thread: worker; all of it in one thread and one ``contextvars.Context``, from the call to ``close()``.

Source: PEP 3333 "Specification Details", "Error Handling"; wsgiref's handlers for what servers have always done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowsgi.errors import ApplicationError
from aiowsgi.wsgi.response import Response, ResponseSink

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

__all__ = ["is_body", "run_application"]

_RETURN_VALUE = 'PEP 3333 "Specification Details"'


def run_application(application: WSGIApplication, environ: WSGIEnvironment, sink: ResponseSink) -> None:
    """Run one request.

    On a normal return the whole response has been handed to the sink. ``close()`` has been called exactly once, however
    this ends, if the application returned an iterable that has one.

    Args:
        application: any WSGI application.
        environ: from :func:`~aiowsgi.wsgi.environ.build_environ`.
        sink: where the response goes.

    Raises:
        ApplicationError: the application broke a rule.
        ClientDisconnected: the client went away.
        BaseException: whatever the application, its iterable or ``close()`` raised.
    """
    response = Response(environ["REQUEST_METHOD"], sink)
    iterable: Any = application(environ, response.start_response)
    if type(iterable) is list:  # the usual body has no close()
        response.send(iterable)
        return
    try:
        if not is_body(iterable):
            name = "None" if iterable is None else type(iterable).__name__
            raise ApplicationError(f"the application returned {name}, not an iterable of bytes", _RETURN_VALUE)
        response.send(iterable)
    finally:
        close = getattr(iterable, "close", None)
        if close is not None:
            close()


def is_body(value: object) -> bool:
    """Return whether ``iter(value)`` has something to call; it may still fail, in the application's own code."""
    if isinstance(value, (str, bytes, bytearray)):
        return False  # their items are not blocks
    kind = type(value)
    return hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")
