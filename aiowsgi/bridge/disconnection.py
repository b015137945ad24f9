"""Whether the client of a request is gone: told once by the loop, asked and waited for in the worker.

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

# One lock for all: it is held for a few instructions, and only off the usual path.
_lock = threading.Lock()


class Disconnection:
    """A flag that is set at most once: that of a connection, for all of its requests, one after the other.

    The flag belongs to the connection: a callback that is not removed also fires for later requests on it.

    Fields guarded by the module's lock: ``_is_set`` (read without it; it only ever becomes true), ``_callbacks``.
    """

    __slots__ = ("_callbacks", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: list[Callable[[], object]] | None = None

    def is_set(self) -> bool:
        """Tell whether the client is gone. Any thread; never blocks."""
        return self._is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client is gone, at most ``timeout`` seconds; tell whether it is. Worker thread."""
        if not self._is_set:
            event = threading.Event()
            self.add_callback(event.set)
            event.wait(timeout)
            self.remove_callback(event.set)
        return self._is_set

    def set(self) -> None:
        """The client is gone. Any thread; the callbacks run in it, and one that fails is logged."""
        with _lock:
            if self._is_set:
                return
            self._is_set = True
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except BaseException as error:  # SystemExit and the like must not end the loop either
                # A log handler that fails must not keep the connection, or the other callbacks, from their end.
                with contextlib.suppress(Exception):
                    _logger.error(
                        "%r, a callback of aiowsgi.disconnected, failed: %s: %s",
                        callback,
                        type(error).__name__,
                        error,
                        exc_info=error,
                    )

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Have ``callback()`` called when the client goes; at once if it is gone. It must not block."""
        with _lock:
            if not self._is_set:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback()

    def remove_callback(self, callback: Callable[[], object]) -> None:
        """Take a callback back."""
        with _lock:
            if self._callbacks is not None and callback in self._callbacks:
                self._callbacks.remove(callback)
