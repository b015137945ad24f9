"""The id of a request: what a trusted proxy says, else one of our own.

Thread: event loop, but :meth:`RequestIds.tell`, which is the worker's.

Source: the ``X-Request-ID`` of nginx, HAProxy, Envoy and Heroku; RFC 9110 section 5.6.2 for what most of them use.
"""

from __future__ import annotations

import itertools
import os
import re
from typing import TYPE_CHECKING

from aiowsgi.configuration.peers import Peers
from aiowsgi.semantics import ConnectionInfo, RequestHead, variable_name

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["RequestIds"]

# Letters, digits and what ids are made of elsewhere (UUIDs, AWS's ``Root=1-...;Self=...``, base64): nothing that a log,
# a shell or a page of HTML would take for more than text.
_ID = re.compile(r"[A-Za-z0-9._~:/+=;@-]{1,128}")
_DEFAULT_FIELD = "x-request-id"


class RequestIds:
    """Gives requests their ids.

    One of our own is a random text for the process and a number for the request: a tenth of what a UUID costs.

    Args:
        header: the field that holds an id, and that is set to it in environ; without one, a trusted proxy's
            ``X-Request-ID`` is taken, and no field in environ is changed.
        trusted: the peers whose ids are taken.
    """

    __slots__ = ("_key", "_numbers", "_prefix", "_trusted", "_variable")

    def __init__(self, header: str | None, trusted: Peers) -> None:
        self._variable = variable_name(_DEFAULT_FIELD if header is None else header)
        self._key = "" if header is None else self._variable
        self._trusted = trusted
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def of(self, head: RequestHead, connection: ConnectionInfo) -> str:
        """Return the id of a request."""
        value = head.variables.get(self._variable)
        if value is not None and connection.field_host in self._trusted and _ID.fullmatch(value):
            return value
        return f"{self._prefix}-{next(self._numbers):x}"

    def tell(self, request_id: str, environ: WSGIEnvironment) -> None:
        """Place an id into environ. Worker thread."""
        environ["aiowsgi.request_id"] = request_id
        if self._key:
            environ[self._key] = request_id
