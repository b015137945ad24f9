from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import traceback
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from aiowsgi.errors import ApplicationImportError
from aiowsgi.process.application import load_application
from tests.process.conftest import WriteFiles

APP = """
def {name}(environ, start_response):
    start_response("200 OK", [])
    return [{answer!r}]
"""


def app(answer: bytes, name: str = "app") -> str:
    return APP.format(name=name, answer=answer)


def answer_of(text: str, *, factory: bool = False) -> bytes:
    application = load_application(text, factory=factory)
    return b"".join(application({}, lambda status, headers, exc_info=None: None))  # type: ignore[arg-type]


def failure_of(text: str, *, factory: bool = False) -> ApplicationImportError:
    with pytest.raises(ApplicationImportError) as caught:
        load_application(text, factory=factory)
    assert "\n" not in str(caught.value)
    return caught.value


def trace_of(error: ApplicationImportError) -> str:
    """What the command line prints before the message."""
    assert error.__cause__ is not None
    return "".join(traceback.format_exception(error.__cause__))


# Where it is found


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "hello:app",
        "hello:site.app",
        "hello:make('own', prefix='its ')",
        "hello:application_class",
        "hello.py",
        "hello.py:app",
        "./hello.py:make('its own')",
        "{folder}/hello.py",
    ],
)
def test_application_in_each_form_is_loaded(files: WriteFiles, text: str) -> None:
    folder = files(
        {
            "hello.py": app(b"its own")
            + "class site: app = staticmethod(app)\n"
            + "def make(answer, prefix=''):\n"
            + "    return lambda environ, start_response: [f'{prefix}{answer}'.encode()]\n"
            + "class application_class:\n"
            + "    def __init__(self, environ, start_response): pass\n"
            + "    def __iter__(self): yield b'its own'\n"
        }
    )
    assert answer_of(text.format(folder=folder)) == b"its own"


def test_module_alone_prefers_application_to_app(files: WriteFiles) -> None:
    files({"both.py": app(b"app") + app(b"application", "application")})
    assert answer_of("both") == b"application"


def test_module_with_lazy_attribute_is_asked_for_it(files: WriteFiles) -> None:
    files(
        {
            "lazy.py": "def __getattr__(name):\n"
            "    if name != 'app': raise AttributeError(name)\n"
            "    return lambda environ, start_response: [b'lazy']\n"
        }
    )
    assert answer_of("lazy") == b"lazy"


@pytest.mark.parametrize("name", ["create_app", "make_app", "other"])
def test_factory_flag_calls_the_attribute(files: WriteFiles, name: str) -> None:
    files({"made.py": app(b"made") + f"def {name}(): return app\n"})
    assert answer_of(f"made:{name}", factory=True) == b"made"


@pytest.mark.parametrize("name", ["create_app", "make_app"])
def test_factory_flag_with_module_alone_calls_its_conventional_factory(files: WriteFiles, name: str) -> None:
    files({"made.py": app(b"made") + f"def {name}(): return app\n"})
    assert answer_of("made", factory=True) == b"made"


def test_current_folder_comes_first_on_the_path_once(files: WriteFiles) -> None:
    folder = files({"hello.py": app(b"")})
    load_application("hello")
    load_application("hello")
    assert sys.path[0] == str(folder)
    assert sys.path.count(str(folder)) == 1


def test_file_is_a_module_that_pickle_and_dataclasses_know(files: WriteFiles) -> None:
    files(
        {
            "sites/shop.py": "from __future__ import annotations\n"
            "import dataclasses, neighbour\n"
            "@dataclasses.dataclass\n"
            "class Basket:\n"
            "    size: int\n" + app(b"shop"),
            "sites/neighbour.py": "",
        }
    )
    application: Any = load_application("sites/shop.py")
    assert application.__module__ == "shop"
    basket = sys.modules["shop"].Basket(3)
    assert pickle.loads(pickle.dumps(basket)) == basket
    assert dataclasses.asdict(basket) == {"size": 3}


def test_file_named_twice_is_imported_once(files: WriteFiles) -> None:
    files({"sites/shop.py": app(b"shop")})
    assert load_application("sites/shop.py") is load_application("./sites/../sites/shop.py:app")


def test_file_with_the_name_of_a_module_that_is_taken_does_not_replace_it(files: WriteFiles) -> None:
    files({"json.py": app(b"json, the shop")})
    before = sys.modules["json"]
    assert answer_of("./json.py") == b"json, the shop"
    assert sys.modules["json"] is before


def test_file_that_imports_itself_by_name_is_the_same_module(files: WriteFiles) -> None:
    files({"sites/circle.py": "import part\n" + app(b"circle"), "sites/part.py": "import circle\n"})
    load_application("sites/circle.py")
    assert sys.modules["part"].circle is sys.modules["circle"]


def test_file_that_replaces_itself_in_sys_modules_is_what_it_put_there(files: WriteFiles) -> None:
    files(
        {
            "swap.py": "import sys, types\n"
            "sys.modules[__name__] = types.SimpleNamespace(app=lambda environ, start_response: [b'swapped'])\n"
        }
    )
    assert answer_of("./swap.py") == b"swapped"
    del sys.modules["swap"]


def test_file_in_a_package_is_its_member(files: WriteFiles) -> None:
    files(
        {
            "src/shop/__init__.py": "",
            "src/shop/web/__init__.py": "",
            "src/shop/web/main.py": "from ..stock import answer\ndef app(environ, start_response): return [answer]\n",
            "src/shop/stock.py": "answer = b'in stock'\n",
        }
    )
    application: Any = load_application("src/shop/web/main.py")
    assert application.__module__ == "shop.web.main"
    assert answer_of("src/shop/web/main.py:app") == b"in stock"


def test_package_file_itself_is_the_package(files: WriteFiles) -> None:
    files({"src/kiosk/__init__.py": app(b"kiosk")})
    application: Any = load_application("src/kiosk/__init__.py")
    assert application.__module__ == "kiosk"


def test_file_in_a_package_whose_name_is_taken_is_refused(files: WriteFiles) -> None:
    files({"email/__init__.py": "", "email/message.py": app(b"")})
    assert "'email' is already the name of another module" in str(failure_of("email/message.py"))


def test_wsgi_file_may_import_the_package_of_its_name(files: WriteFiles) -> None:
    files(
        {
            "shop.wsgi": "from shop import app as application\n",
            "shop/__init__.py": app(b"shop"),
            "shop.py": "raise RuntimeError('the package comes first')\n",
        }
    )
    assert answer_of("shop.wsgi") == b"shop"
    assert answer_of("./shop.wsgi:application") == b"shop"
    assert sys.modules["shop_wsgi"].__file__ == os.path.abspath("shop.wsgi")


def test_wsgi_file_leaves_no_bytecode_that_a_module_of_its_name_would_take(
    files: WriteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = files({"page.wsgi": app(b"wsgi", "application")})
    assert answer_of("page.wsgi") == b"wsgi"
    assert not (folder / "__pycache__").exists()


def test_file_whose_name_is_no_identifier_is_loaded(files: WriteFiles) -> None:
    files({"my-app.v2.py": app(b"second")})
    application: Any = load_application("my-app.v2.py")
    assert application.__module__ == "my-app_v2"


# What does not exist


def test_unknown_module_is_named_with_the_one_that_was_meant(files: WriteFiles) -> None:
    folder = files({"hello.py": app(b"")})
    error = failure_of("helo:app")
    assert str(error) == f"no module named 'helo' in {folder} or on sys.path; did you mean 'hello'?"
    assert error.__cause__ is None
    assert "did you mean" not in str(failure_of("entirely_other"))


def test_unknown_module_in_a_package_is_named_with_the_one_that_was_meant(files: WriteFiles) -> None:
    files({"kiosk/__init__.py": "", "kiosk/wsgi.py": app(b"")})
    assert str(failure_of("kiosk.wsg:app")) == "no module named 'wsg' in 'kiosk'; did you mean 'wsgi'?"
    assert str(failure_of("kiosk.wsgi.app")) == "no module named 'app' in 'kiosk.wsgi'; did you mean 'kiosk.wsgi:app'?"
    assert str(failure_of("kiosk.wsgi.xyz")) == "no module named 'xyz' in 'kiosk.wsgi'"


def test_module_that_imports_what_is_missing_is_told_from_a_missing_one(files: WriteFiles) -> None:
    files({"needy.py": "import no_such_thing\n"})
    error = failure_of("needy")
    assert str(error) == "module 'needy' exists, but imports 'no_such_thing', which is not found"
    assert "import no_such_thing" in trace_of(error)


def test_module_that_imports_its_own_missing_member_is_told_from_a_missing_one(files: WriteFiles) -> None:
    files({"broken/__init__.py": "import broken.wsgi\n"})
    assert "imports 'broken.wsgi', which is not found" in str(failure_of("broken.wsgi:app"))


def test_missing_file_is_named_with_the_one_that_was_meant(files: WriteFiles) -> None:
    files({"sites/hello.py": "", "sites/notes.txt": ""})
    assert str(failure_of("sites/helo.py")) == "no file 'sites/helo.py'; did you mean 'hello.py'?"
    assert str(failure_of("sites/notes")) == "no file 'sites/notes'"
    assert str(failure_of("no/such/app.py")) == "no file 'no/such/app.py'"


def test_folder_is_no_application(files: WriteFiles) -> None:
    files({"sites/hello.py": ""})
    assert str(failure_of("sites/")) == "'sites' is a folder; name a module or a file in it"


def test_missing_attribute_is_named_with_the_one_that_was_meant(files: WriteFiles) -> None:
    files({"hello.py": app(b"") + "class site: application = app\nnumber = 3\n"})
    assert str(failure_of("hello:appp")) == "module 'hello' has no attribute 'appp'; did you mean 'app'?"
    assert (
        str(failure_of("hello:site.aplication"))
        == "'hello:site' has no attribute 'aplication'; did you mean 'application'?"
    )
    files({"flask_app.py": app(b"", "application")})
    assert str(failure_of("hello:application")).endswith("has no attribute 'application'; did you mean 'app'?")
    assert str(failure_of("hello:number.app")) == "'hello:number' has no attribute 'app'"
    assert str(failure_of("hello:other")) == "module 'hello' has no attribute 'other'"
    assert str(failure_of("flask_app:app")).endswith("has no attribute 'app'; did you mean 'application'?")
    assert str(failure_of("hello:site.application.x")) == "'hello:site.application' has no attribute 'x'"


def test_missing_attribute_that_is_a_module_is_recognised(files: WriteFiles) -> None:
    files({"kiosk/__init__.py": "", "kiosk/wsgi.py": app(b"")})
    assert "belongs before the colon: 'kiosk.wsgi'" in str(failure_of("kiosk:wsgi.app"))


def test_module_without_conventional_name_is_told_what_to_add(files: WriteFiles) -> None:
    files(
        {
            "empty.py": "",
            "manage.py": "",
            "made.py": "def create_app(): pass\n",
            "django_project/__init__.py": "",
            "django_project/wsgi.py": "",
        }
    )
    assert str(failure_of("empty")) == (
        "module 'empty' has neither 'application' nor 'app'; name the application: empty:name"
    )
    assert "did you mean 'made:create_app()'?" in str(failure_of("made"))
    assert "did you mean 'django_project.wsgi'?" in str(failure_of("django_project"))
    assert "project.wsgi:application" in str(failure_of("manage.py"))
    assert "neither 'create_app' nor 'make_app'" in str(failure_of("empty", factory=True))


# What fails


@pytest.mark.parametrize("text", ["failing", "./failing.py"])
def test_module_that_raises_shows_only_the_frames_of_the_application(files: WriteFiles, text: str) -> None:
    files({"failing.py": "import inner\n", "inner.py": "def f():\n    raise ValueError('first\\nsecond')\nf()\n"})
    error = failure_of(text)
    assert str(error).endswith("failed while it was imported: ValueError: first")
    assert "failing.py'" in str(error) or "'failing'" in str(error)
    trace = trace_of(error)
    first = trace.splitlines()[1]
    assert "failing.py" in first
    assert "importlib" not in trace
    assert "aiowsgi" not in trace
    assert trace.count("File ") == 3
    assert "failing" not in sys.modules


@pytest.mark.parametrize("text", ["failing", "./failing.py"])
def test_module_with_a_syntax_error_is_named_with_its_line(files: WriteFiles, text: str) -> None:
    folder = files({"failing.py": "x = 1\nx = = 2\n"})
    error = failure_of(text)
    assert str(error).endswith(f"cannot be imported: {folder / 'failing.py'}, line 2: invalid syntax")
    assert trace_of(error).startswith('  File "')


def test_module_that_imports_one_with_a_syntax_error_shows_the_way_there(files: WriteFiles) -> None:
    folder = files({"outer.py": "import inner\n", "inner.py": "x = = 2\n"})
    error = failure_of("outer")
    assert str(error) == f"module 'outer' cannot be imported: {folder / 'inner.py'}, line 1: invalid syntax"
    assert "outer.py" in trace_of(error)


@pytest.mark.parametrize("text", ["leaving", "./leaving.py"])
def test_module_that_exits_is_a_failed_import(files: WriteFiles, text: str) -> None:
    files({"leaving.py": "import sys\nsys.exit(7)\n"})
    error = failure_of(text)
    assert str(error).endswith("ended the program while it was imported: SystemExit: 7")
    assert "sys.exit(7)" in trace_of(error)


def test_exception_that_is_no_exception_is_a_failed_import(files: WriteFiles) -> None:
    files({"odd.py": "class Odd(BaseException): pass\nraise Odd\n"})
    assert str(failure_of("odd")) == "module 'odd' failed while it was imported: Odd"


@pytest.mark.parametrize("text", ["stopped", "./stopped.py", "fine:make()", "fine:site.app"])
def test_keyboard_interrupt_is_not_the_fault_of_the_application(files: WriteFiles, text: str) -> None:
    fine = "def make(site=None): raise KeyboardInterrupt\nclass Site: app = property(make)\nsite = Site()\n"
    files({"stopped.py": "raise KeyboardInterrupt\n", "fine.py": fine})
    with pytest.raises(KeyboardInterrupt):
        load_application(text)


def test_file_that_cannot_be_decoded_is_a_failed_import(files: WriteFiles) -> None:
    folder = files({})
    (folder / "binary.py").write_bytes(b"x = '\xff'\n")
    assert "binary.py" in str(failure_of("binary.py"))


def test_attribute_that_raises_is_named(files: WriteFiles) -> None:
    files(
        {"lazy.py": "class Site:\n    @property\n    def app(self): raise RuntimeError('no database')\nsite = Site()\n"}
    )
    error = failure_of("lazy:site.app")
    assert str(error) == "attribute 'app' of 'lazy:site' could not be read: RuntimeError: no database"
    assert "raise RuntimeError" in trace_of(error)


def test_attribute_that_exits_is_named(files: WriteFiles) -> None:
    files({"lazy.py": "class Site:\n    @property\n    def app(self): raise SystemExit(0)\nsite = Site()\n"})
    error = failure_of("lazy:site.app")
    assert str(error) == "attribute 'app' of 'lazy:site' could not be read: SystemExit: 0"
    assert "raise SystemExit" in trace_of(error)


@pytest.mark.parametrize("text", ["patching", "patching:make()"])
@pytest.mark.parametrize(
    ("module", "function", "call"),
    [
        ("gevent.monkey", "is_module_patched", "gevent.monkey.patch_all()"),
        ("eventlet.patcher", "is_monkey_patched", "eventlet.monkey_patch()"),
    ],
)
def test_application_with_greenlets_in_the_place_of_threads_is_told_what_to_take_out(
    files: WriteFiles, monkeypatch: pytest.MonkeyPatch, text: str, module: str, function: str, call: str
) -> None:
    patcher = ModuleType(module)
    monkeypatch.setitem(sys.modules, module, patcher)
    setattr(patcher, function, lambda name: False)
    files({"patching.py": app(b"") + "def make(): return app\n"})
    load_application(text)
    setattr(patcher, function, lambda name: name in ("thread", "threading"))
    assert str(failure_of(text)) == (
        f"threading is patched by {call}, and requests would hang: take that out of the application, "
        f"greenlets become --threads"
    )


# Factories


def test_factory_that_raises_shows_only_its_own_frames(files: WriteFiles) -> None:
    files({"made.py": "def make(x):\n    raise LookupError('no settings')\n"})
    error = failure_of("made:make('production')")
    assert str(error) == "factory 'made:make('production')' failed: LookupError: no settings"
    trace = trace_of(error)
    assert "made.py" in trace.splitlines()[1]
    assert "aiowsgi" not in trace


def test_factory_that_raises_type_error_itself_is_not_a_mismatch(files: WriteFiles) -> None:
    files({"made.py": "def make():\n    len(3)\n"})
    error = failure_of("made:make()")
    assert str(error).startswith("factory 'made:make()' failed: TypeError: object of type 'int'")
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("made:make()", "cannot be called as (): make() missing 1 required positional argument: 'name'"),
        ("made:make('a', 2)", "cannot be called as ('a', 2): make() takes 1 positional argument but 2 were given"),
        ("made:make('a', x=2)", "cannot be called as ('a', x=2): make() got an unexpected keyword argument 'x'"),
    ],
)
def test_factory_called_with_what_it_does_not_take_is_a_mismatch(files: WriteFiles, text: str, message: str) -> None:
    files({"made.py": "def make(name): pass\n"})
    error = failure_of(text)
    assert str(error) == f"factory 'made:make' {message}"
    assert error.__cause__ is None


def test_application_given_as_a_factory_is_recognised(files: WriteFiles) -> None:
    files({"hello.py": app(b"")})
    assert "is it an application rather than a factory?" in str(failure_of("hello:app", factory=True))


def test_factory_that_cannot_be_called_is_named(files: WriteFiles) -> None:
    files({"made.py": "make = [1]\n"})
    assert str(failure_of("made:make()")) == "'made:make' is a list, not a factory that can be called"


def test_factory_that_returns_none_is_named(files: WriteFiles) -> None:
    files({"made.py": "def make(): pass\n"})
    assert str(failure_of("made:make()")) == "factory 'made:make()' returned None; has it no return statement?"


def test_factory_that_returns_what_is_no_application_is_named(files: WriteFiles) -> None:
    files({"made.py": "def make(): return 'app'\n"})
    assert str(failure_of("made:make()")) == "'made:make()' is a str, which cannot be called"


def test_asynchronous_factory_is_recognised(files: WriteFiles) -> None:
    files({"made.py": "async def make(): return 1\n"})
    assert "factory 'made:make' is asynchronous" in str(failure_of("made:make()"))


# What is no application


@pytest.mark.parametrize(
    ("source", "described"),
    [("x = []", "a list"), ("x = {}", "a dict"), ("x = 1", "an int"), ("x = None", "None"), ("x = True", "True")],
)
def test_object_that_cannot_be_called_is_described(files: WriteFiles, source: str, described: str) -> None:
    files({"things.py": source})
    assert str(failure_of("things:x")) == f"'things:x' is {described}, which cannot be called"


def test_module_given_as_the_application_is_described(files: WriteFiles) -> None:
    files({"things.py": "import json as app\n"})
    assert str(failure_of("things")) == ("'things:app' is a module, which cannot be called; name the application in it")


@pytest.mark.parametrize(
    "source",
    [
        "async def app(scope, receive, send): pass",
        "async def app(environ, start_response): pass",
        "async def app(environ, start_response): yield b''",
        "class Site:\n    async def __call__(self, scope, receive, send): pass\napp = Site()",
        "class Site:\n    async def app(self, scope, receive, send): pass\napp = Site().app",
        "import functools\nasync def f(x, scope, receive, send): pass\napp = functools.partial(f, 1)",
        "class Site:\n    def __call__(self, scope, receive, send): return None\napp = Site()",
        "def app(scope, receive, send): return None",
        "def app(scope): return None",
        "class app:\n    def __init__(self, scope): pass",
    ],
)
def test_asgi_application_is_recognised(files: WriteFiles, source: str) -> None:
    files({"asynchronous.py": source + "\n"})
    assert "'asynchronous:app' is an ASGI application" in str(failure_of("asynchronous"))


@pytest.mark.parametrize(
    "source",
    [
        "def app(): return 1",
        "def app(*, debug=False): return 1",
        "def app(config=None, debug=False): return 1",
        "def app(config=None, debug=False, **settings): return 1",
    ],
)
def test_factory_given_as_the_application_is_recognised(files: WriteFiles, source: str) -> None:
    files({"made.py": source + "\n"})
    assert "it looks like a factory that makes the application: 'made:app()', or --factory" in str(failure_of("made"))


@pytest.mark.parametrize("init", ["", "    def __init__(self, config=None, debug=False): pass\n"])
def test_class_given_in_place_of_its_instance_is_recognised(files: WriteFiles, init: str) -> None:
    files({"made.py": f"class app:\n{init}    def __call__(self, environ, start_response): return []\n"})
    assert "it looks like a class that makes the application: 'made:app()'" in str(failure_of("made"))


def test_function_with_another_signature_is_refused(files: WriteFiles) -> None:
    files({"view.py": "def app(request): return 'hello'\n"})
    assert str(failure_of("view")) == ("'view:app' does not take (environ, start_response), but (request)")


@pytest.mark.parametrize(
    "source",
    [
        # werkzeug's Request.application: the signature shown is that of the function inside.
        "import functools\ndef view(request): pass\n@functools.wraps(view)\ndef app(*args): return [b'fits']",
        "def app(environ, start_response, extra=None): return [b'fits']",
        "def app(*args): return [b'fits']",
        "def app(*args, **kwargs): return [b'fits']",
        "def app(environ=None, start_response=None): return [b'fits']",
        "class app:\n    def __init__(self, environ, start_response): pass\n    def __iter__(self): yield b'fits'",
        "import functools\ndef f(x, environ, start_response): return [b'fits']\napp = functools.partial(f, 1)",
        "class Site:\n    def __call__(self, environ, start_response): return [b'fits']\napp = Site()",
        "class Site:\n    def run(self, environ, start_response): return [b'fits']\napp = Site().run",
        "class Site:\n    def __call__(self, *args): return [b'fits']\n    __signature__ = 'nonsense'\napp = Site()",
    ],
)
def test_application_of_any_fitting_shape_is_taken(files: WriteFiles, source: str) -> None:
    files({"shapes.py": source + "\n"})
    assert answer_of("shapes") == b"fits"


@pytest.mark.parametrize(
    "source",
    [
        "class Site:\n"
        "    def __call__(self, environ, start_response): return [b'fits']\n"
        "    __signature__ = property(lambda self: no_such_name)\n"
        "app = Site()",
        "class Meta(type):\n"
        "    __signature__ = property(lambda cls: no_such_name)\n"
        "class app(metaclass=Meta):\n"
        "    def __init__(self, environ, start_response): pass\n"
        "    def __iter__(self): yield b'fits'",
        # As a type checker's import does it, without "from __future__ import annotations", which PEP 649 replaces.
        pytest.param(
            "def app(environ: NoSuchName, start_response: NoSuchName): return [b'fits']",
            marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="evaluates annotations at the definition"),
        ),
    ],
)
def test_application_whose_signature_cannot_be_read_is_taken_at_its_word(files: WriteFiles, source: str) -> None:
    files({"shapes.py": source + "\n"})
    assert answer_of("shapes") == b"fits"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="evaluates annotations at the definition")
def test_signature_with_names_that_only_a_type_checker_knows_is_refused_if_it_does_not_fit(files: WriteFiles) -> None:
    files({"view.py": "def app(request: NoSuchName): return 'hello'\n"})
    assert "'view:app' does not take (environ, start_response), but (request" in str(failure_of("view"))


def test_builtin_without_signature_is_taken_at_its_word(files: WriteFiles) -> None:
    files({"builtin.py": "app = type\n"})
    assert load_application("builtin") is type


def test_partial_of_a_builtin_is_taken_at_its_word(files: WriteFiles) -> None:
    files({"builtin.py": "import functools\napp = functools.partial(print, 1)\n"})
    assert isinstance(load_application("builtin"), partial)
