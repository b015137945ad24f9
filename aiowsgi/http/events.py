"""What a connection reports about the bytes that it received.

Thread: event loop. A request is a :class:`~aiowsgi.semantics.RequestHead`, then its content as plain ``bytes`` (an
object around each block would buy nothing), then :data:`END_OF_CONTENT`. A :class:`Refusal` ends everything: the
connection answers it and closes.
"""

from __future__ import annotations

import enum
from typing import Literal, Union

from aiowsgi.semantics import RequestHead

__all__ = ["END_OF_CONTENT", "EndOfContent", "Event", "Refusal"]


class EndOfContent(enum.Enum):
    """The request has been received to its end."""

    END_OF_CONTENT = enum.auto()


END_OF_CONTENT: Literal[EndOfContent.END_OF_CONTENT] = EndOfContent.END_OF_CONTENT


class Refusal(Exception):
    """A request that is not acceptable; the connection closes after the answer.

    An exception as well as an event: rules deep inside a parser raise it, :class:`HTTPConnection` returns it.

    Args:
        status_code: of the answer.
        detail: the rule that was broken, in words that repeat nothing the client sent.

    Attributes:
        answers_head: the request was a HEAD, whose answer has no content.
        request_line: what the client sent as its request line, for the log: untrusted, bounded, perhaps incomplete.
    """

    answers_head = False
    request_line = ""

    def __init__(self, status_code: int, detail: str) -> None:
        self.status_code = status_code
        self.detail = detail
        super().__init__(f"{status_code}: {detail}")


Event = Union[RequestHead, bytes, EndOfContent, Refusal]  # noqa: UP007 - evaluated at run time
