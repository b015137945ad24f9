"""The name of the folder that a process works in.

Thread: the main thread; reads ``os.environ`` and the file system.

Source: POSIX, "Environment Variables", PWD; ``pwd -L``.
"""

from __future__ import annotations

import contextlib
import os

from aiowsgi.errors import StartupError

__all__ = ["working_folder"]


def working_folder() -> str:
    """Return the working folder by the name that it was entered by, where that is known.

    ``PWD`` says it, as long as it names that folder: often a link to a release, which is to lead to the next one.

    Raises:
        StartupError: it has been removed, and has no name.
    """
    name = os.environ.get("PWD", "")
    with contextlib.suppress(OSError, ValueError):
        if os.path.isabs(name) and os.path.samestat(os.stat(name), os.stat(os.curdir)):
            return name
    try:
        return os.getcwd()
    except OSError as error:
        raise StartupError(f"the working folder is gone: {error.strerror}") from error
