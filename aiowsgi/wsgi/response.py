"""``start_response``, ``write`` and the rules that PEP 3333 and RFC 9110 set for what an application hands over.

Breaking a rule raises :class:`~aiowsgi.errors.ApplicationError` in the application's own call, so that its error
handling sees it. The head leaves with the first non-empty block or at the end; until then ``exc_info`` can replace it.

Thread: worker.

Source: PEP 3333 "The start_response() Callable", "The write() Callable", "Handling the Content-Length Header",
"Error Handling"; RFC 9110 sections 5.1, 5.5, 7.6.1, 8.6 and 15.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from types import TracebackType
from typing import NoReturn, Protocol

from aiowsgi.errors import ApplicationError
from aiowsgi.semantics import HOP_BY_HOP, NO_CONTENT, TOKEN, ResponseHead, has_content
from aiowsgi.wsgi.file_wrapper import FileRegion, FileWrapper

__all__ = ["ExcInfo", "Response", "ResponseSink", "plain_bytes"]

ExcInfo = tuple[type[BaseException], BaseException, TracebackType]

_START_RESPONSE = 'PEP 3333 "The start_response() Callable"'
_CONTENT_LENGTH = 'PEP 3333 "Handling the Content-Length Header"'
_WRITE = 'PEP 3333 "The write() Callable"'
_ERROR_HANDLING = 'PEP 3333 "Error Handling"'
_BYTES = 'PEP 3333 "A Note On String Types"'

# Three digits from 200 to 999, a space, a printable reason: RFC 9112 §4. Informational ones are the gateway's business.
_STATUS = re.compile(r"[2-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")
# RFC 9110 §5.5.
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_BLANKS = " \t"
# More than the size of any file has; int() itself refuses text of some thousands of digits.
_CONTENT_LENGTH_DIGITS = 19


class ResponseSink(Protocol):
    """Where a response goes; the server provides it. Worker thread only."""

    def send_whole(self, head: ResponseHead, blocks: Sequence[bytes], size: int) -> None:
        """Hand over a whole response: head and ``size`` bytes of content in ``blocks``."""
        ...

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        """Hand over a whole response whose content is a file; the sink owns the region from now on."""
        ...

    def send_head(self, head: ResponseHead) -> None:
        """Begin a response whose content follows block by block."""
        ...

    def send_block(self, block: bytes) -> None:
        """Hand over a non-empty block, waiting while the client is too far behind.

        Raises:
            ClientDisconnected: there is nobody to send it to.
        """
        ...

    def check_connected(self) -> None:
        """Raise ``ClientDisconnected`` if there is nobody to send to."""
        ...

    def finish(self) -> None:
        """End a response that was begun with :meth:`send_head`."""
        ...


def plain_bytes(block: object, name: str = "a block of the body") -> bytes:
    """Return a block as nothing but ``bytes``.

    A subclass may have a ``len()`` of its own: what is counted has to be what is sent. A caller in a hurry checks
    ``type(block) is bytes`` first.

    Raises:
        ApplicationError: it is not bytes.
    """
    if type(block) is bytes:
        return block
    if not isinstance(block, bytes):
        raise ApplicationError(f"{name} is {type(block).__name__}, not bytes", _BYTES)
    return bytes(memoryview(block))


@lru_cache(maxsize=256)
def _status_code(status: str) -> int | None:
    return int(status[:3]) if _STATUS.fullmatch(status) else None


# Names and values up to this size are cached. Arbitrary; a long Content-Security-Policy fits.
_KNOWN_SIZE = 4 * 1024
# Fields with which the gateway does more than send their line.
_INSPECTED = frozenset({"content-length", "date", "server"})


def _check_field(item: object) -> tuple[str, str | None, int]:
    """Validate one response header.

    Returns:
        Its line; its name in lower case if it is inspected; the number that it gives if it is Content-Length, else 0.
    """
    if not (isinstance(item, tuple) and len(item) == 2):
        raise ApplicationError(f"response header {item!r} is not a (name, value) tuple", _START_RESPONSE)
    name, value = _native_strings(item)
    if not TOKEN.fullmatch(name):
        raise ApplicationError(f"response header name {name!r} is not a token (RFC 9110 section 5.1)", _START_RESPONSE)
    lowered = name.lower()
    if lowered in HOP_BY_HOP:
        raise ApplicationError(f"{name} is a hop-by-hop header, the server's own business", _START_RESPONSE)
    if not _FIELD_VALUE.fullmatch(value):
        raise ApplicationError(
            f"value {value!r} of response header {name} has a character that a field value cannot have",
            _START_RESPONSE,
        )
    # RFC 9110 §5.5: whitespace around a value is not part of it. Django's Set-Cookie begins with a space.
    line = f"{name}: {value.strip(_BLANKS)}\r\n"
    if lowered not in _INSPECTED:
        return line, None, 0
    return line, lowered, _content_length(value) if lowered == "content-length" else 0


@lru_cache(maxsize=512)
def _check_known_field(item: object) -> tuple[str, str | None, int]:
    """Do what :func:`_check_field` does, once for a field that is the same in every response, as most are.

    Looking one up takes 0.1 µs, validating it and writing its line 0.8.

    Raises:
        TypeError: it must not be kept: it is too large, or of a subclass that may call different texts equal, so that
            another response would get its text.
    """
    if type(item) is not tuple or any(type(text) is not str or len(text) > _KNOWN_SIZE for text in item):
        raise TypeError
    return _check_field(item)


def _check_head(status: str, status_code: int, response_headers: object) -> ResponseHead:
    """Validate ``response_headers``; return the head that they make with a status."""
    if not isinstance(response_headers, list):
        raise ApplicationError(f"response_headers is {type(response_headers).__name__}, not a list", _START_RESPONSE)
    head = ResponseHead(status, status_code, "", None)
    field_lines = ""
    for item in response_headers:
        try:
            line, inspected, number = _check_known_field(item)
        except TypeError:  # not to be kept, or not even hashable
            line, inspected, number = _check_field(item)
        if inspected is None:
            field_lines += line
        elif inspected == "content-length":
            if head.content_length is not None:
                raise ApplicationError("more than one Content-Length", _CONTENT_LENGTH)
            head.content_length = number
        else:
            field_lines += line
            head.has_date = head.has_date or inspected == "date"
            head.has_server = head.has_server or inspected == "server"
    head.field_lines = field_lines
    return head


def _native_strings(item: tuple[object, ...]) -> tuple[str, str]:
    """Return a field's own text if it comes as subclasses of ``str``, which may format as something else.

    An ``Enum`` with ``str`` mixed in formats as its member's name: what was checked has to be what is sent.
    """
    name, value = item
    if not (isinstance(name, str) and isinstance(value, str)):
        raise ApplicationError(f"response header {item!r} is not made of native strings", _BYTES)
    return str.__str__(name), str.__str__(value)


def _content_length(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= _CONTENT_LENGTH_DIGITS):
        raise ApplicationError(f"Content-Length {value[:100]!r} is not a number of bytes", _CONTENT_LENGTH)
    return int(value)


class Response:
    """The state of one response, from ``start_response`` to its last block.

    Args:
        method: of the request: an answer to HEAD has no content.
        sink: where it goes.
    """

    __slots__ = ("_called", "_head", "_method", "_missing_size", "_sink", "_suppressed", "begun", "finished")

    def __init__(self, method: str, sink: ResponseSink) -> None:
        self._method = method
        self._sink = sink
        # start_response has been called, even if it refused its arguments.
        self._called = False
        self._head: ResponseHead | None = None
        # While content is being sent: what Content-Length still promises, if it promised anything.
        self._missing_size: int | None = None
        self._suppressed = False
        #: The head has been handed over.
        self.begun = False
        #: All of the response has been handed over.
        self.finished = False

    def start_response(
        self,
        status: str,
        response_headers: list[tuple[str, str]],
        exc_info: ExcInfo | tuple[None, None, None] | None = None,
    ) -> Callable[[bytes], object]:
        """See PEP 3333 "The start_response() Callable".

        Returns:
            The ``write`` callable.

        Raises:
            ApplicationError: a rule is broken.
            BaseException: the one in ``exc_info``, if the head has left.
        """
        if exc_info:
            try:
                if self.begun:
                    if exc_info[1] is None:
                        raise ApplicationError("start_response called after the head has left", _ERROR_HANDLING)
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: avoid a circular reference through this frame
        elif self._called:
            raise ApplicationError("start_response called again without exc_info", _START_RESPONSE)
        self._called = True
        if type(status) is not str:
            if not isinstance(status, str):
                raise ApplicationError(f"status {status!r} is not a native string", _BYTES)
            status = str.__str__(status)
        status_code = _status_code(status)
        if status_code is None:
            raise ApplicationError(
                f"status {status!r} is not three digits from 200 to 999, a space and a reason", _START_RESPONSE
            )
        self._head = _check_head(status, status_code, response_headers)
        return self.write

    def write(self, block: bytes, /) -> None:
        """Send one block; also what ``start_response`` returns.

        Raises:
            ApplicationError: it is not bytes, crosses Content-Length, or comes before ``start_response`` or after the
                end of the response.
            ClientDisconnected: there is nobody to send it to.
        """
        if type(block) is not bytes:
            block = plain_bytes(block)
        if not block:
            if not self.finished:  # else the client may well have gone: it has everything
                self._sink.check_connected()
            return
        if not self.begun:
            self._begin(block, whole=False)
        elif not self.finished:
            if self._missing_size is not None:
                self._count(block)
            self._sink.send_block(block)
        elif not self._suppressed:
            self._refuse_surplus()

    def _started_head(self) -> ResponseHead:
        if self._head is None:
            raise ApplicationError("start_response was not called before the body", _START_RESPONSE)
        return self._head

    def _begin(self, block: bytes, whole: bool) -> None:
        """Let the head leave with the first block.

        A block that has everything Content-Length promises makes the response whole: it is handed over in one step, and
        costs no more than a list would. Flask's and Django's usual answers come this way.
        """
        head = self._started_head()
        self._suppressed = not has_content(self._method, head.status_code)
        if self._suppressed:
            self.begun = self.finished = True
            self._sink.send_whole(head, (), 0)
            return
        self._missing_size = len(block) if whole and head.content_length is None else head.content_length
        if self._missing_size is not None:
            self._count(block)
            if self._missing_size == 0:
                self.begun = self.finished = True
                self._sink.send_whole(head, (block,), len(block))
                return
        self.begun = True
        self._sink.send_head(head)
        self._sink.send_block(block)

    def _count(self, block: bytes) -> None:
        assert self._missing_size is not None
        if len(block) > self._missing_size:
            self._refuse_surplus()
        self._missing_size -= len(block)

    def _refuse_surplus(self) -> NoReturn:
        if self._started_head().content_length is not None:
            raise ApplicationError("the body is longer than its Content-Length", _CONTENT_LENGTH)
        raise ApplicationError(
            "content after the end of the response: a late write(), or an iterable longer than its len()", _WRITE
        )

    def send(self, iterable: Iterable[bytes]) -> None:
        """Send the body that an application returned, and end the response.

        Raises:
            ApplicationError: a rule is broken.
            ClientDisconnected: there is nobody to send it to.
            BaseException: whatever the iterable raises.
        """
        if not self.begun:
            if type(iterable) is list or type(iterable) is tuple:
                self._send_whole(iterable)
                return
            if type(iterable) is FileWrapper and self._send_file(iterable):
                return
        if type(iterable) is FileWrapper:
            iterable = self._file_blocks(iterable)
        whole = not self.begun and _has_one_block(iterable)
        for block in iterable:
            if whole and not self.begun and (data := block if type(block) is bytes else plain_bytes(block)):
                whole = False
                self._begin(data, whole=True)
            else:
                self.write(block)
            if self._suppressed:
                return  # the rest would be made for nobody
        self._finish()

    def _send_whole(self, blocks: Sequence[bytes]) -> None:
        size = 0
        for block in blocks:
            if type(block) is not bytes:
                self._send_whole([plain_bytes(block) for block in blocks])
                return
            size += len(block)
        head = self._head or self._started_head()
        if self._method == "HEAD" or head.status_code in NO_CONTENT:
            blocks = ()
        elif head.content_length is not None and head.content_length != size:
            raise ApplicationError(
                f"the body has {size} bytes, its Content-Length is {head.content_length}", _CONTENT_LENGTH
            )
        self.begun = self.finished = True
        self._sink.send_whole(head, blocks, size)

    def _send_file(self, wrapper: FileWrapper) -> bool:
        head = self._started_head()
        if not has_content(self._method, head.status_code):
            return False
        region = wrapper.detach()
        if region is None:
            return False
        if head.content_length is not None:
            if region.size < head.content_length:
                region.close()
                raise ApplicationError(
                    f"the file has {region.size} bytes left, its Content-Length is {head.content_length}",
                    _CONTENT_LENGTH,
                )
            # A part of a file: Content-Length says how much of it.
            region.size = head.content_length
        self.begun = self.finished = True
        self._sink.send_file(head, region)
        return True

    def _file_blocks(self, wrapper: FileWrapper) -> Iterator[bytes]:
        """Read a file as far as Content-Length says: unlike other iterables, it may go on after the body's end."""
        missing_size = self._missing_size if self.begun else self._started_head().content_length
        for block in wrapper:
            if missing_size is None:
                yield block
                continue
            part = plain_bytes(block)[:missing_size]
            missing_size -= len(part)
            yield part
            if not missing_size:
                return

    def _finish(self) -> None:
        if self.finished:
            return
        if not self.begun:
            self._send_whole(())
            return
        if self._missing_size:
            raise ApplicationError(
                f"the body is {self._missing_size} bytes shorter than its Content-Length", _CONTENT_LENGTH
            )
        self.finished = True
        self._sink.finish()


def _has_one_block(iterable: object) -> bool:
    """Return whether ``len(iterable) == 1``: then, says PEP 3333, the first block is the whole body."""
    try:
        return len(iterable) == 1  # type: ignore[arg-type]  # whether it has a length is the question
    except Exception:  # "if a call to len(iterable) succeeds": a __len__ may exist and fail in any way
        return False
