"""The access log as JSON: fields with types, named as OpenTelemetry names the attributes of HTTP.

A line is one object of ASCII. Every value from a client goes through JSON's own escapes, so that none can end its
string, let alone its line, or begin a field of its own. What is not known is left out.

Thread: event loop.

Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/ "HTTP server"; RFC 3339; RFC 8259.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any

from aiowsgi.server.access_format import user_name
from aiowsgi.server.observed import UNKNOWN_HEAD

if TYPE_CHECKING:
    from aiowsgi.http.events import Refusal
    from aiowsgi.semantics import RequestHead
    from aiowsgi.server.observed import ObservedExchange

__all__ = ["fields_of", "make_json_formatter", "timestamp"]

_quote: Callable[[str], str] = encode_basestring_ascii


def fields_of(x: ObservedExchange) -> dict[str, Any]:
    """Return the fields of an exchange that has ended, for a log record: those of the line that a record lacks."""
    fields: dict[str, Any] = json.loads(make_json_formatter()(x))
    for name in ("timestamp", "severity_text", "logger", "process.pid"):
        del fields[name]
    return fields


def make_json_formatter() -> Callable[[ObservedExchange], str]:
    """Return the function that makes a line, with its line end, from an exchange that has ended."""
    process = f'"severity_text":"INFO","logger":"aiowsgi.access","process.pid":{os.getpid()}'

    def make_line(x: ObservedExchange) -> str:
        # Written out, not collected in a dict: json.dumps() alone takes longer than all of this.
        head = x.head
        sent = head.variables
        known = _request(head) if head is not UNKNOWN_HEAD else ""
        if x.client_address:
            known += f',"client.address":{_quote(x.client_address)}'
        if "HTTP_HOST" in sent:
            known += _server(sent["HTTP_HOST"])
        if "HTTP_USER_AGENT" in sent:
            known += f',"user_agent.original":{_quote(sent["HTTP_USER_AGENT"])}'
        if "HTTP_REFERER" in sent:
            known += f',"http.request.header.referer":[{_quote(sent["HTTP_REFERER"])}]'
        if "HTTP_AUTHORIZATION" in sent:
            known += _user(sent["HTTP_AUTHORIZATION"])
        if x.status_code:
            known += f',"http.response.status_code":{x.status_code}'
        if x.refusal is not None:
            known += _refusal(x.refusal)
        return (
            f'{{"timestamp":"{timestamp()}",{process},"url.scheme":"{x.scheme}"{known}'
            f',"http.response.body.size":{x.sent_size},"http.server.request.duration":{x.ended_at - x.arrived_at:.6f}'
            f',"aiowsgi.queue_time":{x.queue_time:.6f},"aiowsgi.thread_time":{x.thread_time:.6f}'
            f',"aiowsgi.write_time":{x.write_time:.6f},"aiowsgi.outcome":"{x.outcome}"'
            f',"aiowsgi.request_id":"{x.request_id}"}}\n'
        )

    return make_line


def _request(head: RequestHead) -> str:
    query = f',"url.query":{_quote(head.query)}' if head.query else ""
    return (
        f',"http.request.method":"{head.method}","url.path":{_quote(head.path)}{query}'
        f',"network.protocol.version":"{head.http_version}"'
    )


@lru_cache(maxsize=1024)
def _server(host: str) -> str:
    """Return the server's address and port as the client wrote them in Host."""
    address, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        return f',"server.address":{_quote(host)}'
    return f',"server.address":{_quote(address)}' + (f',"server.port":{int(port)}' if port else "")


def _user(authorization: str) -> str:
    user = user_name(authorization)
    return "" if user == "-" else f',"user.name":{_quote(user)}'


def _refusal(refusal: Refusal) -> str:
    line = f',"aiowsgi.request_line":{_quote(refusal.request_line)}' if refusal.request_line else ""
    return f',"aiowsgi.reason":{_quote(refusal.detail)}{line}'


_millisecond: tuple[int, str] = (0, "")


def timestamp() -> str:
    """Return the time in RFC 3339's format, made once a millisecond. The pair is replaced as a whole."""
    global _millisecond
    now = time.time_ns() // 1_000_000
    known, text = _millisecond
    if known != now:
        second, rest = divmod(now, 1000)
        text = time.strftime(f"%Y-%m-%dT%H:%M:%S.{rest:03d}Z", time.gmtime(second))
        _millisecond = (now, text)
    return text
