"""The configured hooks: the deployer's functions, called as processes come and go.

``on_starting`` and ``on_exit`` belong to the process that was started, the others to each worker; a single process
calls all of them. They come in pairs: unless the process is killed, ``on_exit`` follows every ``on_starting``, and
``worker_exit`` every ``worker_init``, that did not fail.

Thread: the main thread; ``worker_ready`` and ``worker_exit`` while its event loop waits for them.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiowsgi.config import HOOK_NAMES, Config
from aiowsgi.configuration.folder import working_folder
from aiowsgi.configuration.names import did_you_mean
from aiowsgi.errors import ApplicationImportError, HookError
from aiowsgi.process.module import application_error, import_module, make_importable, summary

__all__ = ["SERVER_HOOKS", "WORKER_HOOKS", "HookInfo", "Hooks"]

#: Of the process that was started.
SERVER_HOOKS = ("on_starting", "on_exit")
#: Of each worker.
WORKER_HOOKS = ("worker_init", "worker_ready", "worker_exit")

# The server cannot start without what these prepare.
_FATAL = frozenset({"on_starting", "worker_init"})

_logger = logging.getLogger("aiowsgi.error")


@dataclass(frozen=True, slots=True)
class HookInfo:
    """What a hook is called with.

    Args:
        hook: its name: ``worker_init``.
        config: every setting.
        pid: of this process.
        worker: the worker's number, from 1; ``None`` in the process that was started, whether or not it serves.
        urls: where it listens, for ``worker_ready``; empty for the others.
    """

    hook: str
    config: Config
    pid: int
    worker: int | None
    urls: tuple[str, ...]


class Hooks:
    """The hooks of one process.

    Args:
        config: names the functions.
        names: the hooks that this process calls; they are imported now.
        worker: the worker's number.

    Raises:
        HookError: one cannot be imported, found or called.
    """

    def __init__(self, config: Config, names: Iterable[str] = HOOK_NAMES, *, worker: int | None = None) -> None:
        self._config = config
        self._worker = worker
        self._functions: dict[str, Callable[[HookInfo], object]] = {}
        for name in names:
            text = getattr(config, name)
            if text is not None:
                make_importable(working_folder())
                self._functions[name] = _load(name, text)

    def call(self, name: str, urls: Iterable[str] = ()) -> None:
        """Call a hook, if there is one.

        Raises:
            HookError: ``on_starting`` or ``worker_init`` raised; what the others raise is logged.
        """
        function = self._functions.get(name)
        if function is None:
            return
        try:
            function(HookInfo(name, self._config, os.getpid(), self._worker, tuple(urls)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            message = f"hook {name}={getattr(self._config, name)} failed: {summary(error)}"
            cause = application_error(error)
            if name in _FATAL:
                raise HookError(message) from cause
            _logger.error("%s", message, exc_info=cause)

    @contextlib.contextmanager
    def around(self, begin: str, end: str) -> Iterator[None]:
        """Call one hook before a block, and the other after it if the first did not fail.

        Raises:
            HookError: as :meth:`call`.
        """
        self.call(begin)
        try:
            yield
        finally:
            self.call(end)


def _load(name: str, text: str) -> Callable[[HookInfo], object]:
    location, _, attributes = text.partition(":")
    try:
        target: Any = import_module(location)
    except ApplicationImportError as error:
        raise HookError(f"hook {name}={text}: {error}") from error.__cause__
    for attribute in attributes.split("."):
        if not hasattr(target, attribute):
            raise HookError(f"hook {name}={text}: there is no {attribute!r}{did_you_mean(attribute, dir(target))}")
        target = getattr(target, attribute)
    if not callable(target):
        raise HookError(f"hook {name}={text}: is {type(target).__name__} and cannot be called")
    if inspect.iscoroutinefunction(target):
        raise HookError(f"hook {name}={text}: is asynchronous; it must be a plain function")
    called: Callable[[HookInfo], object] = target
    return called
