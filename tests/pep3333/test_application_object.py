"""PEP 3333 "The Application/Framework Side", "The Server/Gateway Side" and the beginning of "Specification Details"."""

from __future__ import annotations

import pytest

from tests.pep3333.conftest import Calls, returning


def as_function(environ, start_response):
    start_response("200 OK", [])
    return [b"called"]


class Methods:
    def method(self, environ, start_response):
        return as_function(environ, start_response)

    @classmethod
    def class_method(cls, environ, start_response):
        return as_function(environ, start_response)

    @staticmethod
    def static_method(environ, start_response):
        return as_function(environ, start_response)

    def __call__(self, environ, start_response):
        return as_function(environ, start_response)


class AsClass:
    """The PEP's own second example: the instance is the iterable."""

    def __init__(self, environ, start_response):
        self.start_response = start_response

    def __iter__(self):
        self.start_response("200 OK", [])
        yield b"called"


def as_generator(environ, start_response):
    start_response("200 OK", [])
    yield b"called"


@pytest.mark.parametrize(
    "application",
    [
        as_function,
        Methods().method,
        Methods.class_method,
        Methods.static_method,
        Methods(),
        AsClass,
        as_generator,
        lambda environ, start_response: as_function(environ, start_response),
    ],
    ids=["function", "method", "class method", "static method", "instance", "class", "generator", "lambda"],
)
def test_application_object_of_any_kind_is_called(serve, application):
    # "a function, method, class, or instance with a __call__ method are all acceptable"
    with serve(application).connect() as client:
        assert client.get().content == b"called"
        assert client.get().content == b"called"  # "must be able to be invoked more than once"


def test_application_is_called_once_for_each_request(serve):
    # "invokes the application callable once for each request"
    calls = Calls()

    def application(environ, start_response):
        calls.put(environ["PATH_INFO"])
        start_response("200 OK", [])
        return []

    with serve(application).connect() as client:
        for path in ("/1", "/2", "/3"):
            client.get(path)
    assert [calls.take() for _ in range(3)] == ["/1", "/2", "/3"]
    assert calls.empty()


def test_application_is_called_with_positional_arguments_only(serve):
    # "must invoke the application object using positional (not keyword) arguments"
    calls = Calls()

    def application(*arguments, **keywords):
        calls.put((len(arguments), keywords))
        arguments[1]("200 OK", [])
        return []

    with serve(application).connect() as client:
        client.get()
    assert calls.take() == (2, {})


def test_arguments_of_the_application_may_have_any_names(serve):
    # "they are not required to have these names"
    def application(surroundings, begin):
        begin("200 OK", [])
        return [b"named otherwise"]

    with serve(application).connect() as client:
        assert client.get().content == b"named otherwise"


def test_environ_is_a_builtin_dict(environ_of):
    # "must be a builtin Python dictionary (not a subclass"
    assert type(environ_of(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")) is dict


def test_environ_changed_by_the_application_is_new_for_the_next_request(serve):
    # "allowed to modify the dictionary in any way it desires"
    calls = Calls()

    def application(environ, start_response):
        calls.put(set(environ))
        environ.clear()
        environ[1] = environ["wsgi.version"] = environ["REQUEST_METHOD"] = "changed"
        start_response("200 OK", [])
        return [b"content"]

    with serve(application).connect() as client:
        assert client.get().content == b"content"
        assert client.get().content == b"content"
    first, second = calls.take(), calls.take()
    assert first == second
    assert "changed" not in second
    assert "REQUEST_METHOD" in first


def test_environ_method_changed_during_a_head_request_still_sends_no_content(serve):
    # The request is the server's to remember: what an application leaves in environ decides nothing.
    def application(environ, start_response):
        environ["REQUEST_METHOD"] = "GET"
        start_response("200 OK", [("Content-Length", "7")])
        return [b"content"]

    with serve(application).connect() as client:
        assert client.get(method="HEAD").value("Content-Length") == "7"
        assert client.get().content == b"content"  # nothing of the first content is in the way


def test_start_response_returns_a_write_callable_with_one_positional_parameter(serve):
    # "must return a write(body_data) callable that takes one positional parameter"
    def application(environ, start_response):
        write = start_response("200 OK", [])
        assert callable(write)
        write(b"written")
        return []

    with serve(application).connect() as client:
        assert client.get().content == b"written"


@pytest.mark.parametrize(
    "content",
    [b"\n", b"\r", b"\r\n\r\n", b"a\nb\rc\r\nd", bytes(range(256)), b"\0" * 70_000],
    ids=["LF", "CR", "empty line", "mixed line ends", "every byte", "zeros"],
)
def test_content_bytes_reach_the_client_unaltered(serve, content):
    # "treat the yielded bytestrings as binary byte sequences"; "line endings are not altered"
    def application(environ, start_response):
        start_response("200 OK", [])
        return [content] if environ["PATH_INFO"] == "/list" else iter([content, content])

    with serve(application).connect() as client:
        assert client.get("/list").content == content
        assert client.get("/iterator").content == content + content


def test_environ_value_of_an_extension_is_named_as_the_pep_asks(environ_of):
    # "only lower-case letters, numbers, dots, and underscores, and should be prefixed"
    environ = environ_of(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    extensions = [name for name in environ if not name.isupper()]
    assert len(extensions) > 8
    for name in extensions:
        prefix, dot, rest = name.partition(".")
        assert prefix, name
        assert dot, name
        assert rest, name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._"), name


def test_iterable_without_len_or_close_needs_no_other_attribute(serve):
    # "must not directly use any other attributes of the iterable"
    used = Calls()

    class Bare:
        def __init__(self):
            self.blocks = iter([b"one", b"two"])

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.blocks)

        def __getattr__(self, name):
            used.put(name)
            raise AttributeError(name)

    with serve(lambda environ, start_response: (start_response("200 OK", []), Bare())[1]).connect() as client:
        assert client.get().content == b"onetwo"
    assert used.take() == "close"
    assert used.empty()


def test_application_that_answers_from_one_shared_list_keeps_it_unchanged(serve):
    # The blocks are the application's: a server that joined or emptied them in place would spoil the next answer.
    body = [b"one", b"two"]
    with serve(returning(body)).connect() as client:
        assert client.get().content == b"onetwo"
        assert client.get().content == b"onetwo"
    assert body == [b"one", b"two"]
