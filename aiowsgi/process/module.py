"""Importing the module that holds an application, by name or from a file; failures name their culprit.

Thread: the main thread. Changes ``sys.path`` and ``sys.modules``, as an import does.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from aiowsgi.configuration.folder import working_folder
from aiowsgi.configuration.names import did_you_mean
from aiowsgi.errors import ApplicationImportError
from aiowsgi.process.privileges import own_user

__all__ = ["application_error", "import_file", "import_module", "make_importable", "summary"]


def make_importable(folder: str | os.PathLike[str]) -> None:
    """Put a folder at the front of ``sys.path``, once."""
    path = os.fspath(folder)
    if path not in sys.path:
        sys.path.insert(0, path)


def import_module(name: str) -> ModuleType:
    """Import a module by its dotted name.

    Raises:
        ApplicationImportError: it does not exist, or it failed, and that failure is the cause.
    """
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        cause = application_error(error)
        if isinstance(error, ModuleNotFoundError) and cause is None:
            raise ApplicationImportError(_not_found(error.name or name)) from None
        raise ApplicationImportError(_import_failed(f"module {name!r}", error)) from cause


def import_file(path: Path) -> ModuleType:
    """Import a module from a file, under the name that an ``import`` in its folder would give it.

    Its folder becomes importable. A file inside a package is imported as that package's member, so that its
    relative imports work. The module is in ``sys.modules``, as pickle and dataclasses need it.

    Raises:
        ApplicationImportError: it does not exist, or it failed, and that failure is the cause.
    """
    if not os.path.isfile(path):  # not path.is_file(), which fails where a folder cannot be read
        raise ApplicationImportError(_no_file(path))
    path = Path(os.path.abspath(path))  # not resolve(): a release is often a link to its folder
    make_importable(path.parent)
    root, packages = _packages_around(path)
    if not packages or path.suffix != ".py" or "." in path.stem:
        return _import_standalone(path)
    make_importable(root)
    module = import_module(".".join(packages if path.stem == "__init__" else [*packages, path.stem]))
    if not _is_from(module, path):
        raise ApplicationImportError(
            f"file {str(path)!r}: {packages[0]!r} is already the name of another module, "
            f"{getattr(module, '__file__', None) or 'built in'}"
        )
    return module


def application_error(error: BaseException) -> BaseException | None:
    """The error with its traceback cut to begin in the application, or ``None`` if it was raised outside it.

    Frames of this package and of the import machinery are cut. A syntax error names its line without a traceback.
    """
    frames = error.__traceback__
    while frames is not None and _is_machinery(frames):
        frames = frames.tb_next
    if frames is None and not isinstance(error, SyntaxError):
        return None
    return error.with_traceback(frames)


def summary(error: BaseException) -> str:
    """One line for an exception: its type and the first line of its message."""
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _is_machinery(frames: TracebackType) -> bool:
    name = str(frames.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == "importlib" or name.startswith("aiowsgi.process.")


def _import_failed(what: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"{what} ended the program while it was imported: {summary(error)}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{what} cannot be imported: {error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, ModuleNotFoundError):
        return f"{what} exists, but imports {error.name!r}, which is not found"
    return f"{what} failed while it was imported: {summary(error)}"


def _not_found(name: str) -> str:
    """Say that a module does not exist, where it was looked for, and what may have been meant."""
    package, _, last = name.rpartition(".")
    if not package:
        folder = working_folder()
        candidates = [module.name for module in pkgutil.iter_modules([folder])]
        if _is_unreadable(folder):
            folder += f", which user {own_user()} cannot read,"
        return f"no module named {name!r} in {folder} or on sys.path{did_you_mean(name, candidates)}"
    parent = sys.modules.get(package)
    if hasattr(parent, last):
        return f"no module named {last!r} in {package!r}; did you mean '{package}:{last}'?"
    candidates = [module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", []))]
    return f"no module named {last!r} in {package!r}{did_you_mean(last, candidates)}"


def _no_file(path: Path) -> str:
    if os.path.isdir(path):
        return f"{str(path)!r} is a folder; name a module or a file in it"
    folder = os.path.abspath(path.parent)
    if _is_unreadable(folder):
        return f"no file {str(path)!r} that can be seen: user {own_user()} cannot read {folder}"
    siblings = [entry.name for entry in path.parent.glob("*") if entry.suffix in (".py", ".wsgi")]
    return f"no file {str(path)!r}{did_you_mean(path.name, siblings)}"


def _is_unreadable(folder: str) -> bool:
    """Whether a folder exists, but this process's user may not read it: its files then seem not to exist."""
    try:
        os.stat(folder)
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(folder, os.R_OK | os.X_OK)


def _packages_around(path: Path) -> tuple[Path, list[str]]:
    """The folder of the outermost package around a file, and the packages from there to the file."""
    folder, names = path.parent, list[str]()
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, names


class _UncachedLoader(SourceFileLoader):
    """Loads source without a ``.pyc``; ``project.wsgi`` would share that of ``project.py``."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _import_standalone(path: Path) -> ModuleType:
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    loader = (SourceFileLoader if path.suffix == ".py" else _UncachedLoader)(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # a loader was given
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        cause = application_error(error)
        raise ApplicationImportError(_import_failed(f"file {str(path)!r}", error)) from cause
    return sys.modules[name]  # a module may put another object in its place


def _module_name(path: Path) -> str:
    """A name under which the file may be in ``sys.modules``: free, or already this file's.

    ``project.wsgi`` becomes ``project_wsgi``, because what it imports is usually called ``project``.
    """
    name = path.stem if path.suffix == ".py" else path.name
    name = re.sub(r"[^\w-]", "_", name)
    while name in sys.modules and not _is_from(sys.modules[name], path):
        name += "_"
    return name


def _is_from(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and os.path.exists(file) and os.path.samefile(file, path)
