"""A sink that keeps what a response hands over."""

from __future__ import annotations

from collections.abc import Sequence

from aiowsgi.errors import ClientDisconnected
from aiowsgi.semantics import ResponseHead
from aiowsgi.wsgi.file_wrapper import FileRegion


class RecordingSink:
    """See :class:`aiowsgi.wsgi.response.ResponseSink`.

    Args:
        block_limit: blocks that the client takes before it goes away.
    """

    def __init__(self, block_limit: int | None = None) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._block_limit = block_limit

    def names(self) -> list[object]:
        """Return which methods were called."""
        return [call[0] for call in self.calls]

    def sent(self) -> list[object]:
        """Return the status, if the head has been handed over, and then the blocks."""
        sent: list[object] = []
        for name, *arguments in self.calls:
            if name in ("send_head", "send_whole"):
                sent.append(arguments[0].status)
            if name == "send_whole":
                sent.extend(arguments[1])
            if name == "send_block":
                sent.append(arguments[0])
        return sent

    @property
    def head(self) -> ResponseHead:
        """The one head that was handed over."""
        (head,) = [call[1] for call in self.calls if call[0] in ("send_whole", "send_file", "send_head")]
        assert isinstance(head, ResponseHead)
        return head

    @property
    def content(self) -> bytes:
        """All blocks that were handed over."""
        return b"".join(block for block in self.sent() if isinstance(block, bytes))

    def send_whole(self, head: ResponseHead, blocks: Sequence[bytes], size: int) -> None:
        self.calls.append(("send_whole", head, tuple(blocks), size))

    def send_file(self, head: ResponseHead, region: FileRegion) -> None:
        self.calls.append(("send_file", head, region))

    def send_head(self, head: ResponseHead) -> None:
        self.calls.append(("send_head", head))

    def send_block(self, block: bytes) -> None:
        self._count_block()
        self.calls.append(("send_block", block))

    def check_connected(self) -> None:
        if self._block_limit == 0:
            raise ClientDisconnected("gone")
        self.calls.append(("check_connected",))

    def finish(self) -> None:
        self.calls.append(("finish",))

    def _count_block(self) -> None:
        if self._block_limit is not None:
            if not self._block_limit:
                raise ClientDisconnected("gone")
            self._block_limit -= 1
