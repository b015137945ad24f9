"""Content delimited by length and by chunks: what belongs to it, what is left over, what is refused and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.http.content import ChunkedReader, ContentLengthReader, ContentReader
from aiowsgi.http.events import Refusal
from tests.http.grammar import bounded
from tests.http.reading import byte_by_byte, every_split

CONTENT_LIMIT = 1000
TRAILER_COUNT = 5
TRAILERS_SIZE = 200


def chunked_reader() -> ChunkedReader:
    return ChunkedReader(CONTENT_LIMIT, (TRAILER_COUNT, TRAILERS_SIZE))


def read_all(reader: ContentReader, *pieces: bytes) -> tuple[bytes, bytes | None]:
    """Return the content, and what is left over once it is complete; ``None`` while it is not."""
    blocks: list[bytes] = []
    rest: bytes | None = None
    for piece in pieces:
        if rest is None:
            rest = reader.receive_data(piece, blocks)
        else:
            rest += piece
    return b"".join(blocks), rest


def status_of(data: bytes) -> int:
    """Return the status that refuses chunked content, the same whole, in halves and byte by byte."""
    statuses = set()
    for pieces in ([data], byte_by_byte(data), *every_split(data)):
        with pytest.raises(Refusal) as refused:
            read_all(chunked_reader(), *pieces)
        statuses.add(refused.value.status_code)
    (status,) = statuses
    return status


def received_until_refused(data: bytes) -> int:
    """Return how many bytes a reader takes, one at a time, until it refuses."""
    reader = chunked_reader()
    for count, byte in enumerate(byte_by_byte(data), 1):
        try:
            reader.receive_data(byte, [])
        except Refusal:
            return count
    raise AssertionError("never refused")


@bounded
@given(content=st.binary(min_size=1, max_size=60), rest=st.binary(max_size=20), data=st.data())
def test_content_length_in_any_pieces_is_separated_from_the_rest(
    content: bytes, rest: bytes, data: st.DataObject
) -> None:
    sent = content + rest
    place = data.draw(st.integers(0, len(sent)))
    expected = (content, rest)
    assert read_all(ContentLengthReader(len(content)), sent) == expected
    assert read_all(ContentLengthReader(len(content)), sent[:place], sent[place:]) == expected
    assert read_all(ContentLengthReader(len(content)), *byte_by_byte(sent)) == expected


def test_content_length_with_a_byte_missing_is_not_complete() -> None:
    assert read_all(ContentLengthReader(5), b"abcd") == (b"abcd", None)


def test_content_length_blocks_are_handed_over_without_copying() -> None:
    block = b"x" * 100
    blocks: list[bytes] = []
    assert ContentLengthReader(100).receive_data(block, blocks) == b""
    assert blocks[0] is block


@pytest.mark.parametrize(
    ("data", "content", "rest"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nabcde\r\n0\r\n\r\n", b"abcde", b""),
        (b"5\r\nabcde\r\n0\r\n\r\nGET", b"abcde", b"GET"),
        (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n\r\n\r\n", b"abc", b"\r\n\r\n"),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, b""),
        (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a", b""),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
        (b"1;a=b\r\nx\r\n0;c\r\n\r\n", b"x", b""),
        (b"1 \t;\r\nx\r\n0\r\n\r\n", b"x", b""),
        (b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\nrest", b"x", b"rest"),
    ],
)
def test_chunked_in_any_pieces_is_read(data: bytes, content: bytes, rest: bytes) -> None:
    for pieces in ([data], list(byte_by_byte(data)), *every_split(data)):
        assert read_all(chunked_reader(), *pieces) == (content, rest)


def test_chunked_before_its_very_last_byte_is_not_complete() -> None:
    data = b"1\r\nx\r\n0\r\nA: b\r\n\r\n"
    for end in range(len(data)):
        assert read_all(chunked_reader(), data[:end])[1] is None
        assert read_all(chunked_reader(), *byte_by_byte(data[:end]))[1] is None


@pytest.mark.parametrize(
    "size_line",
    [
        *(
            b"",
            b"0x5",
            b"+5",
            b"-1",
            b" 5",
            b"5 ",
            b"5\t",
            b"5 a",
            b"g",
            b"0" * 17,
            b"5,",
            b"5;\x00",
            b"5;\x7f",
            b"5;\x1b",
        ),
        *(b"5\r", b"5\rX", b"5;a\rb", b"\r5", b"\xb2", b"5\xa0", b"5\x0b", b"5\x0c;a"),
    ],
)
def test_chunk_size_malformed_is_400(size_line: bytes) -> None:
    assert status_of(size_line + b"\r\nabcde\r\n0\r\n\r\n") == 400


def test_chunk_size_followed_by_any_other_byte_is_400() -> None:
    for byte in range(256):
        if byte not in b"0123456789abcdefABCDEF\r\n;":
            assert status_of(b"5" + bytes([byte]) + b"\r\nabcde\r\n0\r\n\r\n") == 400, byte


def test_chunk_data_followed_by_anything_but_a_line_end_is_400() -> None:
    for byte in range(256):
        if byte != 0x0D:
            assert status_of(b"2\r\nab" + bytes([byte]) + b"\r\n0\r\n\r\n") == 400, byte


@pytest.mark.parametrize(
    "data",
    [
        b"5\nabcde\r\n0\r\n\r\n",
        b"5\r\nabcde\n0\r\n\r\n",
        b"5\r\nabcde\r\n0\n\r\n",
        b"5\r\nabcde\r\n0\r\n\n",
        b"5\r\nabcde\r\n0\r\nA: b\n\r\n",
        b"5\r\nabcde\r\n0\r\nA: b\r\n\n",
        b"5\r\nabcde\r\n0\r\n\rX",
        b"5\r\nabcde\r0\r\n\r\n",
        b"5\r\nabcde\rX0\r\n\r\n",
        b"5;a\rX\nabcde\r\n0\r\n\r\n",
    ],
)
def test_chunked_line_end_that_is_not_crlf_is_400(data: bytes) -> None:
    assert status_of(data) == 400


@pytest.mark.parametrize("trailer", [b"A", b": b", b"A : b", b" A: b", b"\tb", b"A: b\x00", b"A\xe9: b", b"A: b\rC: d"])
def test_trailer_malformed_is_400(trailer: bytes) -> None:
    assert status_of(b"0\r\n" + trailer + b"\r\n\r\n") == 400


def test_trailer_folded_is_400() -> None:
    assert status_of(b"0\r\nA: b\r\n c\r\n\r\n") == 400


def test_chunk_content_at_the_limit_is_read() -> None:
    data = b"1f4\r\n" + b"x" * 500 + b"\r\n1f4\r\n" + b"x" * 500 + b"\r\n0\r\n\r\n"
    assert read_all(chunked_reader(), data) == (b"x" * 1000, b"")


def test_chunk_over_the_limit_is_413_at_its_size_line() -> None:
    assert received_until_refused(b"3e9\r\n" + b"x" * 1001) == len(b"3e9\r\n")


def test_chunks_over_the_limit_together_are_413_at_the_size_line_that_crosses_it() -> None:
    data = b"1f4\r\n" + b"x" * 500 + b"\r\n1f5\r\n"
    assert status_of(data) == 413
    assert received_until_refused(data) == len(data)


@pytest.mark.parametrize("size", [b"FFFFFFFFFFFFFFFF", b"ffffffffffffffff", b"8000000000000000", b"100000000"])
def test_chunk_size_of_64_bits_is_413(size: bytes) -> None:
    assert status_of(size + b"\r\nabc") == 413


def test_chunk_line_at_the_limit_is_read() -> None:
    data = b"1;" + b"a" * 254 + b"\r\nx\r\n0\r\n\r\n"
    assert read_all(chunked_reader(), data) == (b"x", b"")
    assert read_all(chunked_reader(), *byte_by_byte(data)) == (b"x", b"")


def test_chunk_line_over_the_limit_is_400() -> None:
    assert status_of(b"1;" + b"a" * 255 + b"\r\nx\r\n0\r\n\r\n") == 400


def test_chunk_extension_of_a_megabyte_in_one_read_is_400() -> None:
    with pytest.raises(Refusal, match="400"):
        read_all(chunked_reader(), b"1;" + b"a" * 1024 * 1024 + b"\r\nx\r\n0\r\n\r\n")


def test_chunk_extension_without_end_is_400_before_it_is_collected() -> None:
    assert received_until_refused(b"1;" + b"a" * 10_000) <= 300


def test_chunk_extensions_over_their_limit_together_are_400() -> None:
    chunk = b"1;" + b"a" * 200 + b"\r\nx\r\n"
    assert read_all(chunked_reader(), chunk * 20 + b"0\r\n\r\n") == (b"x" * 20, b"")
    with pytest.raises(Refusal, match="400"):
        read_all(chunked_reader(), chunk * 21)


@pytest.mark.parametrize("value_size", [TRAILERS_SIZE - 5, TRAILERS_SIZE - 6])
def test_trailers_at_their_size_limit_are_discarded(value_size: int) -> None:
    data = b"0\r\nA: " + b"x" * value_size + b"\r\n\r\n"
    assert read_all(chunked_reader(), data) == (b"", b"")
    assert read_all(chunked_reader(), *byte_by_byte(data)) == (b"", b"")


@pytest.mark.parametrize("value_size", [TRAILERS_SIZE - 4, TRAILERS_SIZE - 2, TRAILERS_SIZE, TRAILERS_SIZE + 500])
def test_trailer_over_the_size_limit_is_431(value_size: int) -> None:
    assert status_of(b"0\r\nA: " + b"x" * value_size + b"\r\n\r\n") == 431


def test_trailers_over_the_size_limit_together_are_431() -> None:
    assert status_of(b"0\r\n" + (b"A: " + b"x" * 95 + b"\r\n") * 3 + b"\r\n") == 431


def test_trailer_without_end_is_431_before_it_is_collected() -> None:
    assert received_until_refused(b"0\r\nA: " + b"x" * 10_000) <= TRAILERS_SIZE + 10


def test_trailers_at_their_count_limit_are_discarded() -> None:
    assert read_all(chunked_reader(), b"0\r\n" + b"A: b\r\n" * TRAILER_COUNT + b"\r\n") == (b"", b"")


def test_trailers_over_their_count_limit_are_431() -> None:
    assert status_of(b"0\r\n" + b"A: b\r\n" * (TRAILER_COUNT + 1) + b"\r\n") == 431


def test_chunk_data_blocks_never_hold_framing() -> None:
    blocks: list[bytes] = []
    assert chunked_reader().receive_data(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", blocks) == b""
    assert [block for block in blocks if block] == [b"abc", b"de"]
