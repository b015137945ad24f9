from __future__ import annotations

from pathlib import Path

import pytest

from aiowsgi.errors import ApplicationImportError
from aiowsgi.process.reference import Call, Reference, parse_reference
from tests.process.conftest import WriteFiles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", Reference("hello", False, (), None)),
        ("  hello\n", Reference("hello", False, (), None)),
        ("project.wsgi", Reference("project.wsgi", False, (), None)),
        ("project.wsgi:application", Reference("project.wsgi", False, ("application",), None)),
        ("hello:site.app", Reference("hello", False, ("site", "app"), None)),
        ("hello: app", Reference("hello", False, ("app",), None)),
        ("my-app:app", Reference("my-app", False, ("app",), None)),
        ("hello.py", Reference("hello.py", True, (), None)),
        ("hello.py:app", Reference("hello.py", True, ("app",), None)),
        ("sites/hello", Reference("sites/hello", True, (), None)),
        ("/srv/my app.py:app", Reference("/srv/my app.py", True, ("app",), None)),
        ("./project.wsgi", Reference("./project.wsgi", True, (), None)),
        ("hello:make()", Reference("hello", False, ("make",), Call("()", (), {}))),
        ("hello:site.make(1)", Reference("hello", False, ("site", "make"), Call("(1)", (1,), {}))),
        (
            'hello:make("a:b.py", None, -1.5, key=(True, [b"x", {"k": {1}}]))',
            Reference(
                "hello",
                False,
                ("make",),
                Call(
                    "('a:b.py', None, -1.5, key=(True, [b'x', {'k': {1}}]))",
                    ("a:b.py", None, -1.5),
                    {"key": (True, [b"x", {"k": {1}}])},
                ),
            ),
        ),
        ("hello:größe('ü')", Reference("hello", False, ("größe",), Call("('ü')", ("ü",), {}))),
    ],
)
def test_reference_in_each_form_is_read(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


def test_reference_to_wsgi_file_that_exists_is_a_file(files: WriteFiles) -> None:
    files({"project.wsgi": ""})
    assert parse_reference("project.wsgi:application").is_file
    assert not parse_reference("other.wsgi:application").is_file


def test_reference_with_factory_flag_is_a_call_without_arguments() -> None:
    assert parse_reference("hello:make", factory=True).call == Call("()", (), {})
    assert parse_reference("hello", factory=True) == Reference("hello", False, (), Call("()", (), {}))


def test_reference_with_factory_flag_and_call_is_refused() -> None:
    with pytest.raises(ApplicationImportError, match=r"'hello:make\(\)'.*both a call and --factory"):
        parse_reference("hello:make()", factory=True)


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("", "must begin with a module or a file"),
        (":app", "must begin with a module or a file"),
        (".hello:app", "'.hello' is not the name of a module"),
        ("hello.:app", "'hello.' is not the name of a module"),
        ("a..b", "'a..b' is not the name of a module"),
        ("hello :app", "'hello ' is not the name of a module"),
        ("hello:", "missing after the colon"),
        ("hello:  ", "missing after the colon"),
        ("hello:1", "'1' is neither"),
        ("hello:a b", "'a b' is neither"),
        ("hello:app[0]", r"'app[0]' is neither"),
        ("hello:make().app", "'make().app' is neither"),
        ("hello:make()()", "'make()()' is neither"),
        ("hello:class", "'class' is neither"),
        ("hello:a:b", "'a:b' is neither"),
        ("hello:app\0", "is neither"),
        ("hello:" + "(" * 500, "is neither"),
        ("hello:make(name)", "must be literals"),
        ("hello:make(open('x'))", "must be literals"),
        ("hello:make(key=name)", "must be literals"),
        ("hello:make(*[1])", "must be literals"),
        ("hello:make(**{'key': 1})", "must be literals"),
        ("hello:make({[]: 1})", "must be literals"),
        ("hello:make(1 + 1)", "must be literals"),
    ],
)
def test_reference_of_no_known_form_is_refused(text: str, culprit: str) -> None:
    with pytest.raises(ApplicationImportError) as caught:
        parse_reference(text)
    assert str(caught.value).startswith(f"APP {text!r}: ")
    assert culprit in str(caught.value)


def test_reference_with_an_expression_is_never_evaluated(files: WriteFiles) -> None:
    marker = files({}) / "evaluated"
    for text in (f"hello:make(open({str(marker)!r}, 'w'))", f"hello:open({str(marker)!r}, 'w').write"):
        with pytest.raises(ApplicationImportError):
            parse_reference(text)
    assert not Path(marker).exists()
