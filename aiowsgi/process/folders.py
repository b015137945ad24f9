"""The folder that a process works in, and those that it imports from.

Thread: the main thread, before the application is imported.
"""

from __future__ import annotations

import os

from aiowsgi.config import Config
from aiowsgi.errors import StartupError
from aiowsgi.process.module import make_importable

__all__ = ["prepare_imports"]


def prepare_imports(config: Config) -> None:
    """Change to ``chdir`` and make the folders of ``pythonpath`` importable, the first of them first.

    Done again it changes nothing, unless ``chdir`` is relative.

    Raises:
        StartupError: ``chdir`` cannot be changed to.
    """
    if config.chdir is not None:
        try:
            os.chdir(config.chdir)
        except OSError as error:
            raise StartupError(f"chdir={config.chdir}: {error.strerror}") from error
    if config.pythonpath:
        make_importable(os.getcwd())  # which comes after them
    # gunicorn separates them with commas, Python with colons.
    texts = ",".join(config.pythonpath).replace(os.pathsep, ",")
    for folder in reversed([part for part in texts.split(",") if part]):
        make_importable(os.path.abspath(folder))
