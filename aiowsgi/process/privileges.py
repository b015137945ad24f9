"""The user, the group and the umask that an application runs with.

Binding port 80 may take root; running the application need not.

Thread: the main thread, before the application is imported.

Source: setuid(2), initgroups(3), umask(2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from aiowsgi.config import Config
from aiowsgi.errors import StartupError

__all__ = ["check_privileges", "drop_privileges", "find_group", "find_user", "give_files", "own_user", "set_umask"]


def find_user(text: str) -> tuple[int, int, str]:
    """Return number, primary group and name of a user; the name is empty where only a number is known.

    Raises:
        StartupError: there is no such user, or this platform has none.
    """
    try:
        import pwd
    except ImportError as error:
        raise StartupError(f"user={text}: this platform has no such users") from error
    try:
        entry = pwd.getpwuid(int(text)) if text.isdigit() else pwd.getpwnam(text)
    except KeyError as error:
        if text.isdigit():
            return int(text), os.getgid(), ""
        raise StartupError(f"user={text}: there is no such user") from error
    return entry.pw_uid, entry.pw_gid, entry.pw_name


def find_group(text: str) -> int:
    """Return the number of a group.

    Raises:
        StartupError: there is no such group, or this platform has none.
    """
    if text.isdigit():
        return int(text)
    try:
        import grp
    except ImportError as error:
        raise StartupError(f"group={text}: this platform has no such groups") from error
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError as error:
        raise StartupError(f"group={text}: there is no such group") from error


def own_user() -> str:
    """Return the name of the user that this process runs as, or the number if it has no name."""
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return str(os.geteuid()) if hasattr(os, "geteuid") else "of this process"


def _wanted(config: Config) -> tuple[int, int, str]:
    uid, gid, name = os.geteuid(), os.getegid(), ""
    if config.user is not None:
        uid, gid, name = find_user(config.user)
    if config.group is not None:
        gid = find_group(config.group)
    return uid, gid, name


def check_privileges(config: Config) -> None:
    """Check that the user and the group that the configuration names exist.

    Raises:
        StartupError: they do not.
    """
    _wanted(config)


def set_umask(config: Config) -> int | None:
    """Set the umask that the configuration names; return the one before, if it names any."""
    return None if config.umask is None else os.umask(config.umask)


def drop_privileges(config: Config) -> None:
    """Become the user and the group that the configuration names, irrevocably, and set the umask.

    Raises:
        StartupError: they do not exist, or this process may not become them.
    """
    set_umask(config)
    if config.user is None and config.group is None:
        return
    uid, gid, name = _wanted(config)
    try:
        if os.geteuid() == 0:
            if name:
                os.initgroups(name, gid)
            else:
                os.setgroups([gid])
        # The group first: once it has given up its user, the process may no longer change it.
        if gid != os.getegid():
            os.setgid(gid)
        if uid != os.geteuid():
            os.setuid(uid)
    except OSError as error:
        options = {"user": config.user, "group": config.group}
        named = [f"{name}={text}" for name, text in options.items() if text is not None]
        root = "; that takes root" if os.geteuid() != 0 else ""
        text = f"{', '.join(named)}: cannot become {'them' if named[1:] else 'it'}: {error.strerror}{root}"
        raise StartupError(text) from None  # or a worker would report it with its traceback


def give_files(config: Config, paths: Iterable[str]) -> None:
    """Give files, such as those of Unix sockets, to the user and the group that workers become.

    Raises:
        StartupError: they do not exist, or the files cannot be given.
    """
    if config.user is None and config.group is None:
        return
    uid, gid, _ = _wanted(config)
    for path in paths:
        try:
            # Whoever may write in that folder may have put a link there.
            os.chown(path, uid, gid, follow_symlinks=False)
        except OSError as error:
            raise StartupError(f"cannot give {path} to user {config.user}: {error.strerror}") from error
