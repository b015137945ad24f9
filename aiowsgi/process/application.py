"""From the name of an application to the application: import, attribute, factory, a look at the outcome.

Whatever can be found wrong before the first request is reported here, in one sentence that names the culprit.

Thread: the main thread.

Implements: PEP 3333, "The Application/Framework Side": a callable object that takes two positional arguments.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast
from wsgiref.types import WSGIApplication

from aiowsgi.configuration.folder import working_folder
from aiowsgi.configuration.names import did_you_mean
from aiowsgi.errors import ApplicationImportError
from aiowsgi.process.descriptors import open_standard_descriptors
from aiowsgi.process.module import (
    application_error,
    import_file,
    import_module,
    make_importable,
    summary,
)
from aiowsgi.process.reference import Call, Reference, parse_reference

__all__ = ["load_application"]

APPLICATION_NAMES = ("application", "app")
FACTORY_NAMES = ("create_app", "make_app")

# More arguments than any signature names: a callable that takes this many takes any number.
MANY = 1000

# What replaces threads by greenlets, and where it says whether it has: module, function, argument.
_GREENLETS = {
    "gevent.monkey.patch_all()": ("gevent.monkey", "is_module_patched", "threading"),
    "eventlet.monkey_patch()": ("eventlet.patcher", "is_monkey_patched", "thread"),
}

_MISSING: Any = object()


def load_application(text: str, *, factory: bool = False) -> WSGIApplication:
    """Import the application that a text names.

    The current folder becomes importable, and so does the folder of a file.

    Args:
        text: ``module:attribute``, ``module:factory("arg", key=1)``, ``module`` (then ``application`` or
            ``app`` in it), or a path in place of the module; see
            :func:`~aiowsgi.process.reference.parse_reference`.
        factory: call the attribute, without arguments, for the application; ``module`` alone then means
            ``create_app`` or ``make_app`` in it.

    Raises:
        ApplicationImportError: naming what is missing or wrong; if the application's own code raised, its
            exception is the cause, with a traceback that begins in the application.
    """
    reference = parse_reference(text, factory=factory)
    make_importable(working_folder())
    location = reference.location
    module = import_file(Path(location)) if reference.is_file else import_module(location)
    name, target = _find(reference, module)
    if reference.call is not None:
        target = _make(name, target, reference.call)
        name += reference.call.text
    _check_threads()
    _check(name, target)
    open_standard_descriptors()  # its code may have closed one, as what becomes a daemon does
    return cast(WSGIApplication, target)


def _find(reference: Reference, module: ModuleType) -> tuple[str, Any]:
    """The object that a reference names in a module, and its full name."""
    if reference.attributes:
        return str(reference), _walk(reference, module)
    conventional = FACTORY_NAMES if reference.call else APPLICATION_NAMES
    for name in conventional:
        target = _read(module, name, f"module {reference.location!r}")
        if target is not _MISSING:
            return f"{reference.location}:{name}", target
    raise ApplicationImportError(
        f"module {reference.location!r} has neither {conventional[0]!r} nor {conventional[1]!r}; "
        f"{_proposal(reference, module)}"
    )


def _proposal(reference: Reference, module: ModuleType) -> str:
    """What to type instead of a module in which no application has a conventional name."""
    if reference.location.endswith("manage.py"):
        return "a Django project's application is in its wsgi module: project.wsgi:application"
    for name in FACTORY_NAMES:
        if callable(getattr(module, name, None)):
            return f"did you mean '{reference.location}:{name}()'?"
    if _has_member(module, "wsgi"):
        return f"did you mean '{module.__name__}.wsgi'?"
    return f"name the application: {reference.location}:name"


def _walk(reference: Reference, module: ModuleType) -> Any:
    """Follow the dotted names of a reference."""
    target: Any = module
    owner = f"module {reference.location!r}"
    for count, name in enumerate(reference.attributes, start=1):
        attribute = _read(target, name, owner)
        if attribute is _MISSING:
            raise ApplicationImportError(f"{owner} has no attribute {name!r}{_meant(target, name)}")
        target = attribute
        owner = f"'{reference.location}:{'.'.join(reference.attributes[:count])}'"
    return target


def _read(target: Any, name: str, owner: str) -> Any:
    """An attribute, or ``_MISSING``; reading it may run the application's code."""
    try:
        return getattr(target, name, _MISSING)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ApplicationImportError(
            f"attribute {name!r} of {owner} could not be read: {summary(error)}"
        ) from application_error(error)


def _meant(target: Any, name: str) -> str:
    if isinstance(target, ModuleType) and _has_member(target, name):
        return f"; it has a module of that name, which belongs before the colon: '{target.__name__}.{name}'"
    names = dir(target)
    for known in APPLICATION_NAMES:
        if name in APPLICATION_NAMES and known in names:
            return f"; did you mean {known!r}?"
    return did_you_mean(name, names)


def _has_member(module: ModuleType, name: str) -> bool:
    """Whether a package has a module of that name, imported or not."""
    return hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def _make(name: str, factory: Any, call: Call) -> Any:
    """Call a factory for its application."""
    if not callable(factory):
        raise ApplicationImportError(f"{name!r} is {_described(factory)}, not a factory that can be called")
    try:
        made = factory(*call.arguments, **call.keywords)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        cause = application_error(error)
        if isinstance(error, TypeError) and cause is None:
            raise ApplicationImportError(_does_not_fit(name, factory, call, error)) from None
        raise ApplicationImportError(f"factory '{name}{call.text}' failed: {summary(error)}") from cause
    if inspect.iscoroutine(made):
        made.close()
        raise ApplicationImportError(f"factory {name!r} is asynchronous; it must return the application itself")
    if made is None:
        raise ApplicationImportError(f"factory '{name}{call.text}' returned None; has it no return statement?")
    return made


def _does_not_fit(name: str, factory: Any, call: Call, error: TypeError) -> str:
    hint = "; is it an application rather than a factory?" if call.text == "()" and _takes(factory, 2) else ""
    return f"factory {name!r} cannot be called as {call.text}: {error}{hint}"


def _check_threads() -> None:
    """Refuse to serve where threads have become greenlets, which do not run while the event loop waits."""
    for call, (module_name, function, argument) in _GREENLETS.items():
        module = sys.modules.get(module_name)
        if module is not None and getattr(module, function)(argument):
            raise ApplicationImportError(
                f"threading is patched by {call}, and requests would hang: take that out of the application, "
                f"greenlets become --threads"
            )


def _check(name: str, target: Any) -> None:
    """Refuse what cannot be a WSGI application.

    Only the callable's own signature is believed: a decorator often shows that of the function it wraps.
    """
    if not callable(target):
        hint = "; name the application in it" if isinstance(target, ModuleType) else ""
        raise ApplicationImportError(f"{name!r} is {_described(target)}, which cannot be called{hint}")
    if _is_asgi(target):
        raise ApplicationImportError(
            f"{name!r} is an ASGI application (asynchronous), not a WSGI one; in a Django project take "
            f"project.wsgi:application, otherwise an ASGI server, or wrap it in a2wsgi.ASGIMiddleware"
        )
    if _takes(target, 2) and not _needs_nothing(target):
        return
    if _takes(target, 0):
        what = "a class" if inspect.isclass(target) else "a factory"
        raise ApplicationImportError(
            f"{name!r} does not take (environ, start_response); it looks like {what} that makes the application: "
            f"'{name}()', or --factory"
        )
    raise ApplicationImportError(f"{name!r} does not take (environ, start_response), but {_signature(target)}")


def _is_asgi(target: Any) -> bool:
    called = (target, type(target).__call__)  # functions and partials; objects
    if any(inspect.iscoroutinefunction(item) or inspect.isasyncgenfunction(item) for item in called):
        return True
    # A plain function around a coroutine function; an application of ASGI 2.
    return _parameters(target) in (["scope", "receive", "send"], ["scope"])


def _signature(target: Any) -> inspect.Signature:
    """The callable's own signature; raises whatever the application's code does that says what it is."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        # Annotations are evaluated when they are read, and may name what only a type checker imports (PEP 649).
        return inspect.signature(target, follow_wrapped=False, annotation_format=Format.FORWARDREF)
    return inspect.signature(target, follow_wrapped=False)


def _parameters(target: Any) -> list[str]:
    try:
        return list(_signature(target).parameters)
    except Exception:  # what cannot be inspected is served all the same
        return []


def _takes(target: Any, count: int) -> bool:
    """Whether a function or class takes ``count`` positional arguments; true if that cannot be known."""
    if not (inspect.isfunction(target) or inspect.ismethod(target) or inspect.isclass(target)):
        return True
    try:
        signature = _signature(target)
    except Exception:
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _needs_nothing(target: Any) -> bool:
    """Whether a function or class has defaults for all its parameters, as factories do and applications do not."""
    if not _takes(target, 0) or _takes(target, MANY):
        return False
    return not {"environ", "env", "start_response"} & set(_parameters(target))


def _described(target: Any) -> str:
    if target is None or isinstance(target, bool):
        return repr(target)
    kind = type(target).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
