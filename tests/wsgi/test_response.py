"""aiowsgi.wsgi.response: what reaches the sink, and what is refused before it."""

from __future__ import annotations

import enum
import io

import pytest

from aiowsgi.errors import ApplicationError
from aiowsgi.wsgi import response as response_module
from aiowsgi.wsgi.file_wrapper import FileWrapper
from aiowsgi.wsgi.response import Response
from tests.wsgi.sink import RecordingSink


def started(status="200 OK", headers=(), method="GET"):
    """Return a response that has been started, and its sink."""
    sink = RecordingSink()
    response = Response(method, sink)
    response.start_response(status, list(headers))
    return response, sink


def length(size):
    return [("Content-Length", str(size))]


# The head.


def test_head_has_status_code_and_fields_without_content_length():
    response, sink = started("404 Not Found", [("X-One", "1"), ("content-LENGTH", "3"), ("X-Two", "2")])
    response.send([b"one"])
    assert sink.head.status == "404 Not Found"
    assert sink.head.status_code == 404
    assert list(sink.head.fields) == [("X-One", "1"), ("X-Two", "2")]
    assert sink.head.content_length == 3


def test_head_replaced_with_exc_info_forgets_the_earlier_content_length():
    response, sink = started(headers=length(3))
    error = ValueError()
    response.start_response("500 Oops", [], (ValueError, error, None))
    response.send([b"a longer page"])
    assert sink.head.content_length is None
    assert sink.content == b"a longer page"


@pytest.mark.parametrize("exc_info", [None, (), False], ids=repr)
def test_start_response_with_nothing_for_exc_info_is_as_without(exc_info):
    # The PEP's own example asks `if exc_info:`.
    response, _ = started()
    with pytest.raises(ApplicationError, match="again without exc_info"):
        response.start_response("200 OK", [], exc_info)


def test_start_response_refused_keeps_the_head_that_exc_info_was_to_replace():
    response, sink = started("200 OK", [("X-First", "1")])
    with pytest.raises(ApplicationError):
        response.start_response("nonsense", [], (ValueError, ValueError(), None))
    response.send([b"content"])
    assert sink.head.status == "200 OK"


def test_start_response_after_the_head_has_left_raises_what_it_is_given():
    response, _ = started()
    response.write(b"first")
    try:
        raise KeyError("own")
    except KeyError as error:
        own = error
        traceback = error.__traceback__
    with pytest.raises(KeyError) as caught:
        response.start_response("500 Oops", [], (KeyError, own, traceback))
    assert caught.value is own


def test_start_response_after_the_head_has_left_with_an_empty_exc_info_is_refused():
    response, _ = started()
    response.write(b"first")
    with pytest.raises(ApplicationError, match="after the head has left") as caught:
        response.start_response("500 Oops", [], (None, None, None))
    assert caught.value.clause == 'PEP 3333 "Error Handling"'


class Kind(str, enum.Enum):  # noqa: UP042 - its format() is the member's name
    HTML = "text/html"


def test_fields_of_subclasses_of_str_are_their_own_text():
    response, sink = started(headers=[("Content-Type", Kind.HTML)])
    response.send([])
    assert [(type(name), type(value), value) for name, value in sink.head.fields] == [(str, str, "text/html")]


def test_fields_handed_over_are_not_the_applications_list():
    headers = [("X-One", "1")]
    sink = RecordingSink()
    response = Response("GET", sink)
    response.start_response("200 OK", headers)
    headers.append(("X-Two", "2"))
    response.send([])
    assert list(sink.head.fields) == [("X-One", "1")]


@pytest.mark.parametrize("value", ["a\tb", "a  b", "\x80", "\xa0", "~", ""], ids=repr)
def test_value_that_rfc_9110_allows_is_accepted(value):
    response, sink = started(headers=[("X-Value", value)])
    response.send([])
    assert list(sink.head.fields) == [("X-Value", value)]


@pytest.mark.parametrize(
    ("value", "stripped"), [(" a b", "a b"), ("a\t ", "a"), ("\t", ""), ("\xa0a", "\xa0a")], ids=repr
)
def test_value_loses_the_whitespace_around_it(value, stripped):
    # RFC 9110 §5.5: it is not part of the value.
    response, sink = started(headers=[("X-Value", value)])
    response.send([])
    assert list(sink.head.fields) == [("X-Value", stripped)]


class AnyCase(str):
    """A text that calls others its equals."""

    def __eq__(self, other):
        return self.lower() == other.lower()

    def __hash__(self):
        return hash(self.lower())


def test_value_of_a_text_with_an_equality_of_its_own_is_not_sent_for_another():
    for value in (AnyCase("/One"), "/one", "/ONE"):
        response, sink = started(headers=[("Location", value)])
        response.send([])
        assert list(sink.head.fields) == [("Location", str.__str__(value))]


def test_fields_that_are_large_are_not_kept():
    response_module._check_known_field.cache_clear()
    for number in range(100):
        response, sink = started(headers=[("X-Large", f"{number}" + 10_000 * "x"), ("X-Small", "1")])
        response.send([])
        assert len(sink.head.fields) == 2
    assert response_module._check_known_field.cache_info().currsize == 1


@pytest.mark.parametrize("code", [*range(9), *range(10, 32), 127])
def test_value_with_a_control_character_is_refused(code):
    # "must not include any control characters"
    with pytest.raises(ApplicationError, match="X-Value"):
        started(headers=[("X-Value", f"a{chr(code)}b")])


@pytest.mark.parametrize("code", [*range(9), *range(10, 32), 127])
def test_status_with_a_control_character_is_refused(code):
    # "must not contain control characters"
    with pytest.raises(ApplicationError, match="status"):
        started(f"200 O{chr(code)}K")


@pytest.mark.parametrize("code", [code for code in range(256) if not (chr(code).isalnum() and code < 128)])
def test_name_is_accepted_exactly_if_it_is_a_token(code):
    # RFC 9110 §5.6.2
    name = f"X{chr(code)}Y"
    if chr(code) in "!#$%&'*+-.^_`|~":
        started(headers=[(name, "x")])
    else:
        with pytest.raises(ApplicationError, match="not a token"):
            started(headers=[(name, "x")])


@pytest.mark.parametrize("digits", ["0", "7", "007", str(10**18), "9" * 19])
def test_content_length_of_digits_is_accepted(digits):
    response, _ = started(headers=[("Content-Length", digits)])
    assert response.begun is False


@pytest.mark.parametrize(
    "digits", ["9" * 20, "9" * 10_000, "-1", "+1", "1.0", "1e3", "0x1", "", " 1", "1 ", "1,1", "\xb2"]
)
def test_content_length_of_anything_else_is_refused(digits):
    with pytest.raises(ApplicationError, match="not a number") as caught:
        started(headers=[("Content-Length", digits)])
    assert len(str(caught.value)) < 300


# Content known whole.


@pytest.mark.parametrize("shape", [list, tuple])
def test_list_is_handed_over_whole_and_as_it_is(shape):
    response, sink = started()
    blocks = shape([b"one", b"", b"two"])
    response.send(blocks)
    (call,) = sink.calls
    assert call[0] == "send_whole"
    assert call[2:] == ((b"one", b"", b"two"), 6)
    assert response.begun
    assert response.finished


def test_list_for_head_keeps_its_size_and_loses_its_blocks():
    response, sink = started(method="HEAD")
    response.send([b"one", b"two"])
    assert sink.calls[0][2:] == ((), 6)


def test_list_for_head_may_differ_from_its_content_length():
    response, sink = started(headers=length(100), method="HEAD")
    response.send([])
    assert sink.head.content_length == 100


def test_list_of_another_size_than_its_content_length_is_refused_with_both_sizes():
    response, sink = started(headers=length(5))
    with pytest.raises(ApplicationError, match="body has 3 bytes, its Content-Length is 5"):
        response.send([b"one"])
    assert sink.calls == []
    assert not response.begun


def test_first_block_that_reaches_content_length_makes_the_response_whole():
    response, sink = started(headers=length(3))
    made = []

    def blocks():
        yield b"one"
        made.append(sink.names())

    response.send(blocks())
    assert made == [["send_whole"]]
    assert sink.names() == ["send_whole"]
    assert response.finished


def test_first_write_that_reaches_content_length_makes_the_response_whole():
    response, sink = started(headers=length(3))
    response.write(b"one")
    response.send([])
    assert sink.names() == ["send_whole"]


def test_one_block_of_a_sized_iterable_makes_the_response_whole():
    class Sized:
        def __len__(self):
            return 1

        def __iter__(self):
            yield b"one"

    response, sink = started()
    response.send(Sized())
    assert sink.calls[0][2:] == ((b"one",), 3)


def test_sized_iterable_that_writes_before_its_block_has_one_head():
    response, sink = started()

    class Writing:
        def __len__(self):
            return 1

        def __iter__(self):
            response.write(b"written, ")
            yield b"returned"

    response.send(Writing())
    assert sink.names() == ["send_head", "send_block", "send_block", "finish"]
    assert sink.content == b"written, returned"


def test_sized_iterable_that_gives_more_than_its_len_is_refused():
    # "If a call to len(iterable) succeeds, the server must be able to rely on the result being accurate."
    class Lying:
        def __len__(self):
            return 1

        def __iter__(self):
            return iter([b"one", b"two"])

    response, sink = started()
    with pytest.raises(ApplicationError, match="longer than its len"):
        response.send(Lying())
    assert sink.content == b"one"


class Short(bytes):
    """Says another size than it has, as a subclass may."""

    def __len__(self):
        return 3


class ShortReading:
    """A file that reads as such blocks."""

    def __init__(self):
        self._blocks = [Short(b"01234"), Short(b"56789"), b""]

    def read(self, size):
        return self._blocks.pop(0)


class OneShort:
    def __len__(self):
        return 1

    def __iter__(self):
        yield Short(b"0123456789")


@pytest.mark.parametrize(
    "make",
    [
        lambda: [Short(b"0123456789")],
        lambda: (b"01234", Short(b"56789")),
        lambda: iter([Short(b"0123456789")]),
        lambda: iter([b"01234", Short(b"56789")]),
        OneShort,
        lambda: FileWrapper(ShortReading()),
    ],
    ids=["list", "tuple", "first of an iterator", "later of an iterator", "sized", "file"],
)
@pytest.mark.parametrize("headers", [[], length(10)], ids=["no length", "length"])
def test_block_of_a_subclass_of_bytes_is_its_own_bytes(make, headers):
    # What is counted has to be what is sent, or the connection is out of step.
    response, sink = started(headers=headers)
    response.send(make())
    assert b"".join(sink.sent()[1:]) == b"0123456789"
    assert all(type(block) is bytes for block in sink.sent()[1:])
    assert sink.calls[0][0] != "send_whole" or sink.calls[0][3] == 10


# Content block by block.


def test_generator_is_handed_over_block_by_block():
    response, sink = started()
    response.send(block for block in (b"", b"one", b"", b"two"))
    assert sink.names() == ["check_connected", "send_head", "send_block", "check_connected", "send_block", "finish"]
    assert response.finished


def test_empty_block_after_a_whole_response_does_not_ask_for_the_client_who_may_have_gone():
    response, sink = started(headers=length(2))
    rest = iter([b"ok", b"", b""])
    response.send(rest)
    assert sink.names() == ["send_whole"]
    assert next(rest, None) is None


def test_generator_shorter_than_its_content_length_is_refused_with_the_difference():
    response, sink = started(headers=length(10))
    with pytest.raises(ApplicationError, match="7 bytes shorter"):
        response.send(iter([b"one"]))
    assert sink.names() == ["send_head", "send_block"]  # and no finish: the end must not look like one
    assert not response.finished


@pytest.mark.parametrize("blocks", [[b"onetwo"], [b"one", b"two"]], ids=["first", "later"])
def test_block_that_crosses_content_length_is_not_handed_over(blocks):
    response, sink = started(headers=length(5))
    with pytest.raises(ApplicationError, match="longer"):
        response.send(iter(blocks))
    assert sink.content == b"".join(blocks[:-1])


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 Not Modified"])
def test_status_without_content_ends_with_its_first_block(status):
    response, sink = started(status)
    response.send(iter([b"one", b"two"]))
    assert sink.names() == ["send_whole"]
    assert sink.content == b""


def test_write_after_a_response_without_content_is_taken_and_dropped():
    response, sink = started(method="HEAD")
    response.write(b"one")
    response.write(b"two")
    response.send([b"three"])
    assert sink.names() == ["send_whole"]


@pytest.mark.parametrize(
    "body", [[b"all"], [], iter([b"al", b"l"]), iter([])], ids=["list", "empty", "iterator", "nothing"]
)
def test_write_after_the_end_is_refused(body):
    response, sink = started()
    response.send(body)
    calls = list(sink.calls)
    with pytest.raises(ApplicationError, match="after the end"):
        response.write(b"late")
    assert sink.calls == calls


@pytest.mark.parametrize("body", [[b"all"], iter([b"al", b"l"]), iter([b"all"])], ids=["list", "iterator", "one block"])
def test_write_after_the_end_that_content_length_set_is_refused(body):
    response, sink = started(headers=length(3))
    response.send(body)
    calls = list(sink.calls)
    with pytest.raises(ApplicationError, match="longer than its Content-Length"):
        response.write(b"late")
    assert sink.calls == calls


def test_write_before_start_response_is_refused():
    # Only a server could: the callable comes from start_response.
    with pytest.raises(ApplicationError, match="start_response was not called"):
        Response("GET", RecordingSink()).write(b"early")


# Files.


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        yield file


def test_file_is_handed_over_as_a_region(file):
    response, sink = started()
    response.send(FileWrapper(file))
    ((name, head, region),) = sink.calls
    assert name == "send_file"
    assert (region.offset, region.size) == (0, 10)
    assert head.content_length is None
    assert response.finished
    region.close()


def test_file_with_a_content_length_is_a_region_of_that_size(file):
    response, sink = started(headers=length(4))
    file.seek(3)
    response.send(FileWrapper(file))
    region = sink.calls[0][2]
    assert (region.offset, region.size) == (3, 4)
    region.close()


def test_file_shorter_than_its_content_length_is_refused_and_nothing_stays_open(file):
    response, sink = started(headers=length(11))
    with pytest.raises(ApplicationError, match="the file has 10 bytes left, its Content-Length is 11"):
        response.send(FileWrapper(file))
    assert sink.calls == []
    assert not response.begun


def test_file_after_written_content_is_read(file):
    response, sink = started()
    response.write(b"written,")
    response.send(FileWrapper(file))
    assert sink.names() == ["send_head", "send_block", "send_block", "finish"]
    assert sink.content == b"written,0123456789"


@pytest.mark.parametrize(
    ("size", "written"), [(0, b""), (1, b""), (4, b""), (5, b""), (9, b""), (10, b""), (1, b"w"), (5, b"w"), (6, b"w")]
)
def test_file_that_is_read_ends_where_content_length_says(size, written):
    response, sink = started(headers=length(size))
    reads = []

    class Watched(io.BytesIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    if written:
        response.write(written)
    response.send(FileWrapper(Watched(b"0123456789"), 4))
    assert sink.content == (written + b"0123456789")[:size]
    assert len(reads) <= size // 4 + 1  # no more is read than is sent, but for the rest of a block
    assert response.finished


def test_file_that_is_read_and_shorter_than_content_length_is_refused():
    response, sink = started(headers=length(11))
    with pytest.raises(ApplicationError, match="1 bytes shorter"):
        response.send(FileWrapper(io.BytesIO(b"0123456789"), 4))
    assert "finish" not in sink.names()


def test_file_for_head_is_not_handed_over(file):
    response, sink = started(method="HEAD")
    response.send(FileWrapper(file))
    assert sink.names() == ["send_whole"]


def test_file_before_start_response_is_refused(file):
    with pytest.raises(ApplicationError, match="start_response was not called"):
        Response("GET", RecordingSink()).send(FileWrapper(file))


def test_file_of_text_is_refused():
    response, sink = started(headers=length(2))
    with pytest.raises(ApplicationError, match="str, not bytes"):
        response.send(FileWrapper(io.StringIO("text")))
    assert sink.calls == []
