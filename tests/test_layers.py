"""The layout rule of the package, over its import graph, and what every module must say of itself.

Words (``config``, ``configuration``, ``errors``, ``semantics``, ``version``) lie under ``http``, ``wsgi`` and
``bridge``, which do not import one another; ``server`` joins them; ``process`` runs ``server``; front ends stand on all
that; the package's ``__init__`` on everything.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import aiowsgi

ROOT = Path(aiowsgi.__file__).parent
WORDS, PARTS, SERVER, PROCESS, FRONT_END, PACKAGE = range(6)

_LAYERS = {
    "config": WORDS,
    "configuration": WORDS,
    "errors": WORDS,
    "semantics": WORDS,
    "version": WORDS,
    "http": PARTS,
    "wsgi": PARTS,
    "bridge": PARTS,
    "channels": SERVER,
    "server": SERVER,
    "process": PROCESS,
}

# What makes or joins threads, processes and connections.
_THREADING = {"threading", "_thread", "concurrent", "multiprocessing"}
_IO = {"asyncio", "socket", "select", "selectors", "ssl", "anyio", "uvloop", "trio", "subprocess", "queue"} | _THREADING
_PROCESS_MODULES = {"signal", "multiprocessing", "subprocess", "pty"}
_PROCESS_CALLS = {"os.fork", "os.forkpty", "os._exit", "os.abort", "os.kill", "os.execv", "os.execvp", "sys.exit"}
# No parts of a server that serves: an application that tells which thread runs it; a loop and a pool for tests.
_BESIDE_THE_SERVER = {"demo", "testing"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
EVERY_MODULE = pytest.mark.parametrize("module", MODULES)
IS_PACKAGE = {module for module, path in MODULES.items() if path.name == "__init__.py"}


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_bytes())


def dotted(node: ast.AST | None) -> str:
    """Return ``a.b`` for that expression; empty for any that is no such name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def imports_of(module: str, tree: ast.AST, *, is_package: bool = False) -> Iterator[str]:
    """Yield what is imported anywhere in a module: in functions and for type checkers too.

    ``from a import b`` is ``a.b`` where that is a module of this package.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in MODULES else base
        elif isinstance(node, ast.Call) and dotted(node.func) in ("importlib.import_module", "__import__"):
            # A name that is computed is an application's; a literal one would go round this test.
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def process_uses_of(tree: ast.AST) -> set[str]:
    """Return what ends, forks or signals the process."""
    uses = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            uses.add(dotted(node))
        elif isinstance(node, ast.ImportFrom):
            uses |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Raise | ast.Call):
            name = dotted(node.exc if isinstance(node, ast.Raise) else node.func)
            if name in ("SystemExit", "exit", "quit"):
                uses.add("sys.exit")
    return uses & _PROCESS_CALLS


def all_imports_of(module: str) -> set[str]:
    return set(imports_of(module, syntax(module), is_package=module in IS_PACKAGE))


def top_names(imported: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in imported}


def part_of(module: str) -> str:
    """Return the first name below the package; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def layer_of(module: str) -> int:
    part = part_of(module)
    return _LAYERS.get(part, FRONT_END) if part else PACKAGE


def layer_problems(module: str, imported: set[str]) -> list[str]:
    """Return the imports that break the rule."""
    problems = []
    for name in sorted(imported):
        if name.partition(".")[0] != "aiowsgi":
            continue
        if layer_of(name) > layer_of(module):
            problems.append(f"{module} imports {name} from above")
        elif layer_of(name) == layer_of(module) == PARTS and part_of(name) != part_of(module):
            problems.append(f"{module} imports {name} beside it")
    return problems


def test_modules_are_found() -> None:
    assert {"aiowsgi", "aiowsgi.config", "aiowsgi.http", "aiowsgi.http.policy", "aiowsgi.server.protocol"} <= set(
        MODULES
    )
    assert set(_LAYERS) <= {part_of(module) for module in MODULES}


@EVERY_MODULE
def test_module_imports_nothing_from_above_or_beside(module: str) -> None:
    assert layer_problems(module, all_imports_of(module)) == []


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) not in {"bridge", *_BESIDE_THE_SERVER}])
def test_module_outside_the_bridge_does_not_import_threading(module: str) -> None:
    assert not top_names(all_imports_of(module)) & _THREADING


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) in ("http", "wsgi")])
def test_module_of_http_or_wsgi_does_no_input_or_output(module: str) -> None:
    assert not top_names(all_imports_of(module)) & _IO


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) != "process"])
def test_module_outside_process_leaves_the_process_alone(module: str) -> None:
    assert not top_names(all_imports_of(module)) & _PROCESS_MODULES
    assert not process_uses_of(syntax(module))


@EVERY_MODULE
def test_module_has_a_docstring(module: str) -> None:
    docstring = ast.get_docstring(syntax(module))
    assert docstring
    assert docstring.splitlines()[0].endswith(".")


def assigned_names(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return names


# A package that is a docstring and nothing more has nothing that could be public.
@pytest.mark.parametrize("module", [m for m in MODULES if m not in IS_PACKAGE or len(syntax(m).body) > 1])
def test_module_says_what_is_public(module: str) -> None:
    assert "__all__" in assigned_names(syntax(module))


# Of a package, its modules say it.
@pytest.mark.parametrize("module", [m for m in MODULES if m not in IS_PACKAGE])
def test_module_says_which_thread_runs_it(module: str) -> None:
    assert re.search(r"^Thread: \S", ast.get_docstring(syntax(module)) or "", re.MULTILINE)


# The checks above, seen to fail.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aiowsgi.http.policy", "from aiowsgi.server.protocol import Protocol"),
        ("aiowsgi.http.policy", "import aiowsgi.bridge.pool"),
        ("aiowsgi.http.policy", "from aiowsgi.wsgi import environ"),
        ("aiowsgi.http.policy", "from ..wsgi.environ import build_environ"),
        ("aiowsgi.http.policy", "def f():\n    from aiowsgi import Server"),
        ("aiowsgi.http.policy", "import importlib\nimportlib.import_module('aiowsgi.server')"),
        ("aiowsgi.config", "from aiowsgi.http.policy import RequestPolicy"),
        ("aiowsgi.server.server", "import aiowsgi"),
        ("aiowsgi.server.server", "if TYPE_CHECKING:\n    from aiowsgi.process.run import run"),
        ("aiowsgi.process.run", "from aiowsgi.demo import app"),
    ],
)
def test_layer_rule_is_seen_to_fail(module: str, source: str) -> None:
    assert layer_problems(module, set(imports_of(module, ast.parse(source))))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aiowsgi.http.policy", "from aiowsgi.http.events import Refusal\nfrom .events import Event\nimport re"),
        ("aiowsgi.http.policy", "from aiowsgi.config import Config\nfrom aiowsgi.version import __version__"),
        ("aiowsgi.server.server", "from aiowsgi.http import policy\nfrom aiowsgi.bridge.pool import Pool"),
        ("aiowsgi.demo", "from aiowsgi.process.run import run"),
        ("aiowsgi", "from aiowsgi.demo import app"),
    ],
)
def test_layer_rule_allows_what_is_below(module: str, source: str) -> None:
    assert layer_problems(module, set(imports_of(module, ast.parse(source)))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()",
        "import sys\nsys.exit(1)",
        "from sys import exit",
        "raise SystemExit(3)",
        "raise SystemExit",
        "exit()",
        "os._exit(1)",
    ],
)
def test_process_rule_is_seen_to_fail(source: str) -> None:
    assert process_uses_of(ast.parse(source))
