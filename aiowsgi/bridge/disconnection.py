"""Whether the client of a request is gone: set once by the loop, asked for or awaited in the worker.

Thread: any, as each method says.

Source: PEP 3333 has no word for it. ``environ["aiowsgi.disconnected"]`` is this object;
``environ["waitress.client_disconnected"]`` is its :meth:`Disconnection.is_set`, as waitress offers it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

__all__ = ["Disconnection"]

_logger = logging.getLogger("aiowsgi.error")

# One lock for all: it is held for a look and an assignment, between which its thread does nothing else, and only off
# the usual path. Before or after these a signal handler may bring the thread here again: so the lock is reentrant.
_lock = threading.RLock()


class Disconnection:
    """A flag that is set at most once; a connection has one, for all of its requests, one after the other.

    The flag belongs to the connection: a callback that is not removed still fires during later requests on it, or at
    its end at the latest, even if every response was whole. Under ``ASGIAdapter``, which knows no connections, each
    request has a flag of its own: it is set at the request's end, once the application has closed its iterable.

    Fields guarded by the module's lock: ``_callbacks`` (read without it). The tuple is never changed but replaced, and
    only if it is still the one that was read: making the new one and comparing callbacks may run other code, which may
    call any of these methods.
    """

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        # ``None`` once the client is gone.
        self._callbacks: tuple[Callable[[], object], ...] | None = ()

    def is_set(self) -> bool:
        """Return whether the client is gone. Any thread; never blocks."""
        return self._callbacks is None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client is gone, at most ``timeout`` seconds; return whether it is. Worker thread."""
        if not self.is_set():
            event = threading.Event()
            self.add_callback(event.set)
            event.wait(timeout)
            self.remove_callback(event.set)
        return self.is_set()

    def set(self) -> None:
        """The client is gone. Any thread; the callbacks run in it, and one that fails is logged."""
        with _lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except BaseException as error:  # SystemExit and the like must not end the loop either
                # A log handler that fails must not keep the connection from its end, nor the other callbacks.
                with contextlib.suppress(BaseException):
                    _logger.error(
                        "%r, a callback of aiowsgi.disconnected, failed: %s: %s",
                        callback,
                        type(error).__name__,
                        error,
                        exc_info=error,
                    )

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Have ``callback()`` called when the client goes; immediately if it is gone. It must not block."""
        while (before := self._callbacks) is not None:
            if self._replace(before, (*before, callback)):
                return
        callback()

    def remove_callback(self, callback: Callable[[], object]) -> None:
        """Remove a callback."""
        while before := self._callbacks:
            try:
                index = before.index(callback)
            except ValueError:
                return
            if self._replace(before, before[:index] + before[index + 1 :]):
                return

    def _replace(self, before: tuple[Callable[[], object], ...], after: tuple[Callable[[], object], ...]) -> bool:
        """Replace the callbacks if they are still the same; return whether they were."""
        with _lock:
            if self._callbacks is not before:
                return False
            self._callbacks = after
            return True
