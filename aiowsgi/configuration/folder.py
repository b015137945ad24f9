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
    """Return the working folder under the name by which it was entered, if that is known.

    That is ``PWD``, as long as it leads to this folder: often a link to a release, which will lead to the next one.

    Raises:
        StartupError: it has been removed, and no longer has a name.
    """
    name = os.environ.get("PWD", "")
    with contextlib.suppress(OSError, ValueError):
        if os.path.isabs(name) and os.path.samestat(os.stat(name), os.stat(os.curdir)):
            return name
    try:
        return os.getcwd()
    except OSError as error:
        raise StartupError(f"the working folder is gone: {error.strerror}") from error
