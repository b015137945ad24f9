"""The folder that a process works in, and those that it imports from.

Folders are remembered by name, and entered again for every worker: by then a link such as ``current`` may lead to
another release, and the previous one may be gone. ``PWD`` is kept in step, as a shell's ``cd`` does, for code that asks
for the name: :func:`~aiowsgi.configuration.folder.working_folder`.

An application may change to another folder whenever it likes; the paths of files and Unix sockets in a configuration
are seen from the folder that it names itself.

Thread: the main thread, before the application is imported; later the supervisor's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from typing import Any

from aiowsgi.config import Config
from aiowsgi.configuration.addresses import UnixAddress, parse_bind
from aiowsgi.configuration.folder import working_folder
from aiowsgi.errors import StartupError
from aiowsgi.process.module import make_importable

__all__ = ["Folders"]

_FILE_OPTIONS = ("access_logfile", "log_config", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
_ADDRESS_OPTIONS = ("metrics_bind", "statsd_host", "control")
# unix(7): sun_path has 108 bytes, with a zero at the end; elsewhere 104. A path that fits only as it is given stays so.
_MOST_SOCKET_PATH_SIZE = 103


class Folders:
    """The folders of a process, seen from where it was started.

    Raises:
        StartupError: the working folder is gone.
    """

    def __init__(self) -> None:
        self._start = working_folder()
        self._entered: os.stat_result | None = None
        with contextlib.suppress(PermissionError):  # sudo may leave a process in a folder that its user cannot enter
            self._entered = os.stat(os.curdir)
        self._added: list[str] = []
        # ``python -m`` has put the folder there with the links in its name resolved.
        resolved = os.getcwd()
        sys.path[:] = [self._start if entry == resolved else entry for entry in sys.path]

    def enter(self, config: Config) -> None:
        """Change to ``chdir``, or back to the first folder, and make those of ``pythonpath`` importable, in that order.

        A further call changes nothing, unless a name now leads to another folder: the process stays where hooks or a
        preloaded application have changed to.

        Raises:
            StartupError: the folder cannot be changed to.
        """
        try:
            # Joined, but not normalized: what .. means after a link is for the system to say.
            folder = os.path.join(self._start, config.chdir or "")
            if self._entered is None or not os.path.samestat(os.stat(folder), self._entered):
                os.chdir(folder)
                self._entered = os.stat(os.curdir)
        except OSError as error:
            if config.chdir is not None:
                raise StartupError(f"chdir={config.chdir}: {error.strerror}") from error
            if not isinstance(error, PermissionError):
                raise StartupError(f"{self._start}, where the server was started: {error.strerror}") from error
        else:
            os.environ["PWD"] = _joined(self._start, config.chdir or "")
        self._make_importable(config)

    def resolved(self, config: Config) -> Config:
        """Return a configuration whose files and Unix sockets are the same in whatever folder the process is.

        Their folder keeps its name, as for :meth:`enter`: a link in it is followed when they are opened.
        """
        folder = os.path.join(self._start, config.chdir or "")

        def path(text: str) -> str:
            # What .. means after a link is for the system to say.
            return os.path.join(folder, text if os.pardir in text.split(os.sep) else os.path.normpath(text))

        def socket_path(text: str) -> str:
            whole = text if text.startswith("@") else path(text)
            return whole if len(os.fsencode(whole)) <= _MOST_SOCKET_PATH_SIZE else text

        def address(text: str) -> str:
            if not text.startswith("unix:"):
                return text
            parsed = parse_bind(text)
            return f"unix:{socket_path(parsed.path)}" if isinstance(parsed, UnixAddress) else text

        changes: dict[str, Any] = {}
        for name in _FILE_OPTIONS:
            text = getattr(config, name)
            if text and text != "-":
                changes[name] = path(text)
        for name in _ADDRESS_OPTIONS:
            text = getattr(config, name)
            if text:
                changes[name] = address(text)
        if config.uds:
            changes["uds"] = socket_path(config.uds)
        return dataclasses.replace(config, bind=tuple(map(address, config.bind)), **changes)

    def _make_importable(self, config: Config) -> None:
        for entry in self._added:
            if entry in sys.path:
                sys.path.remove(entry)
        before = set(sys.path)
        if config.pythonpath:
            folder = working_folder()
            make_importable(folder)  # after those of pythonpath
            # gunicorn separates them with commas, Python with colons.
            texts = ",".join(config.pythonpath).replace(os.pathsep, ",")
            for part in reversed([part for part in texts.split(",") if part]):
                make_importable(_joined(folder, part))
        self._added = [entry for entry in sys.path if entry not in before]


def _joined(folder: str, name: str) -> str:
    """The name of a folder within another; if it contains ``..``, with the links in it resolved."""
    path = os.path.join(folder, name)
    return os.path.realpath(path) if os.pardir in path.split(os.sep) else os.path.normpath(path)
