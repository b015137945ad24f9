"""What is an acceptable request: one place for every rule, whichever parser reads the bytes.

Parsers differ, and each forgives something. So the rules that decide how a message is framed are applied here, to the
raw bytes of a complete head, *before* a parser may fold or repair anything (h11 merges equal ``Content-Length`` lines,
for one); the rules on the meaning of fields are applied to the parser's fields afterwards. Both parsers then accept and
refuse the same requests.

A usual head keeps all rules on raw bytes. One pattern match, a count of its lines and the parser's own strictness
together establish that; the rules one by one would take two to three times as long. A head for which they do not is
checked rule by rule, most often to be refused; a test holds the short way to the rules.

Thread: event loop; holds no state but bounded caches.

Source: RFC 9112 sections 2.2, 3, 5, 6 and 9; RFC 9110 sections 5, 7.2, 9.1, 10.1.1 and 15; RFC 6265 section 5.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address

from aiowsgi.config import Config
from aiowsgi.http.events import Refusal
from aiowsgi.http.parsers import NOT_CONTROL, FieldLine, HeadParser, HeadSyntaxError
from aiowsgi.semantics import TOKEN, TOKEN_CHARACTERS, RequestHead, variable_name

__all__ = ["RequestPolicy", "is_host", "name_fields"]

# RFC 9112 §3: a server SHOULD answer 501 to a method longer than any that it implements. Registered: up to 17 bytes.
_METHOD_SIZE = 32
# RFC 9112 §3.2: a target is visible ASCII; "#" never belongs to one.
_REQUEST_LINE = re.compile(rf"([{TOKEN_CHARACTERS}]+) ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])\r\n".encode("ascii"))
# The form of a usual head, in which no value ends with whitespace. It searches for one byte at a time, which takes half
# the instructions of sets of bytes, and leaves what is in between to other checks: names must be tokens, parse_plain()
# accepts no control character in a value, and if there are as many fields as line ends, nothing is folded or part of
# another message. Possessive: nothing in it could match in two ways, so a mismatch costs no more than a match.
_PLAIN_HEAD = re.compile(
    rb"([A-Z]{1,32}+) (/[\x21\x22\x24-\x7e]*+) HTTP/1\.([01])\r\n(?:[^\r][^:]*+:[^\r]*+(?<![ \t])\r\n)*+\r\n"
)
# The whitespace around the value is left to strip(): a pattern that excluded it would take quadratic time.
_FRAMING_LINE = re.compile(rb"\r\n(content-length|transfer-encoding):([^\r]*)")
# 19 digits hold any 63-bit length; more is over every limit anyway.
_CONTENT_LENGTH = re.compile(rb"[0-9]+")
_CONTENT_LENGTH_DIGITS = 19
# RFC 3986 §3.2.2, without userinfo (RFC 9110 §4.2.4) and with the empty host refused.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?")
# RFC 3986 §3.2.3 names no bound, but TCP has one, and urllib.parse raises where a program asks for a port beyond it.
_HIGHEST_PORT = 64 * 1024 - 1
# How many names, and hosts, are remembered. Arbitrary: enough for what all browsers send; few enough even if clients
# make each as long as limit_request_field_size allows.
_KNOWN_COUNT = 256
_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)


#: Names of fields to names in environ, as :func:`_variable_name` gives them. A dict, because asking an lru_cache takes
#: three times as long, ten times a head.
_VARIABLE_NAMES: dict[bytes, str] = {}


def _variable_name(field_name: bytes) -> str:
    """Return the name that a field has in environ; empty for one that must not reach the application.

    A name with an underscore would take the place of its twin with a dash: ``X_User`` of ``X-User``.

    Raises:
        Refusal: it is not a token. Both parsers check this too; names are few, so checking again costs nothing.
    """
    known = _VARIABLE_NAMES.get(field_name)
    if known is not None:
        return known
    name = field_name.decode("latin-1")
    if not TOKEN.fullmatch(name):
        raise Refusal(400, "malformed field name")
    if len(_VARIABLE_NAMES) >= _KNOWN_COUNT:
        # A client invents names. The usual ones are soon known again.
        _VARIABLE_NAMES.clear()
    known = _VARIABLE_NAMES[field_name] = "" if "_" in name else variable_name(name)
    return known


@lru_cache(maxsize=_KNOWN_COUNT)
def is_host(value: str) -> bool:
    """Return whether a value is a host with or without a port: RFC 9110 section 7.2."""
    match = _HOST.fullmatch(value)
    if match is None or int(match[2] or 0) > _HIGHEST_PORT:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1])  # else urllib.parse raises where a program takes apart a URL with this host
        except ValueError:
            return False
    return True


def name_fields(field_lines: Iterable[FieldLine]) -> dict[str, str]:
    """Map the fields of a request to names and values as environ has them.

    Args:
        field_lines: (name, value) in the order received.

    Returns:
        ``RequestHead.variables``, with ``HTTP_TRANSFER_ENCODING`` if there was one.

    Raises:
        Refusal: a name is not a token, or Host is repeated.
    """
    variables: dict[str, str] = {}
    repeated: list[tuple[str, str]] = []
    for field_name, field_value in field_lines:
        name = _variable_name(field_name)
        if name in variables:
            repeated.append((name, field_value.decode("latin-1")))
        elif name:
            variables[name] = field_value.decode("latin-1")
    if repeated:
        _join_repeated(variables, repeated)
    return variables


def _join_repeated(variables: dict[str, str], repeated: list[tuple[str, str]]) -> None:
    """Join the further values of repeated names to the first ones, which ``variables`` has."""
    values_of: dict[str, list[str]] = {}
    for name, value in repeated:
        values_of.setdefault(name, [variables[name]]).append(value)
    if "HTTP_HOST" in values_of:
        raise Refusal(400, "Host field repeated")
    for name, values in values_of.items():
        # RFC 9110 §5.3 joins with a comma; RFC 6265 §5.4: cookies with a semicolon.
        variables[name] = ("; " if name == "HTTP_COOKIE" else ", ").join(values)


class RequestPolicy:
    """The rules, with the limits of one configuration."""

    __slots__ = ("_body_limit", "_field_count_limit", "_field_limit", "_head_limit", "_line_limit", "_unmeasured_size")

    def __init__(self, config: Config) -> None:
        self._line_limit = config.limit_request_line
        self._field_count_limit = config.limit_request_fields
        self._field_limit = config.limit_request_field_size
        self._head_limit = config.limit_request_head
        self._body_limit = config.limit_request_body
        # A head up to this size cannot have anything in it that is too long.
        self._unmeasured_size = min(self._line_limit, self._field_limit, self._head_limit)

    @property
    def body_limit(self) -> int:
        """Most bytes of content that a request may have."""
        return self._body_limit

    @property
    def trailer_limits(self) -> tuple[int, int]:
        """Most trailer fields, and most bytes of them in all."""
        return self._field_count_limit, self._field_limit

    def check_partial_head(self, buffer: bytearray, scanned_size: int) -> None:
        """Refuse a head that cannot become acceptable, without waiting for its end.

        Args:
            buffer: all that has arrived of the head.
            scanned_size: how much of it an earlier call has seen.

        Raises:
            Refusal: as :meth:`check_head` would in the end.
        """
        start = scanned_size
        if start and buffer[start - 1] == 0x0D:
            start -= 1  # the CR that the earlier call let pass, because its LF could still come
        fresh = buffer[start:]
        line_ends = fresh.count(b"\r\n")
        bare = fresh.count(b"\n") - line_ends or fresh.count(b"\r") - fresh.endswith(b"\r") - line_ends
        if bare or fresh.translate(None, NOT_CONTROL).strip(b"\r\n"):
            raise Refusal(400, "control character or bare line end in the request head")
        size = len(buffer) - buffer.endswith(b"\r")
        line_size = buffer.find(b"\r\n")
        if (line_size if line_size >= 0 else size) > self._line_limit:
            raise Refusal(414, "request line too long")
        if line_size < 0:
            return
        if size > self._head_limit or size - buffer.rfind(b"\r\n") - 2 > self._field_limit:
            raise Refusal(431, "request header fields too large")
        if scanned_size < line_size + 2:  # else an earlier call has checked it
            self._check_request_line(bytes(buffer[: line_size + 2]))

    def read_plain_head(self, head: bytes, parser: HeadParser) -> RequestHead | None:
        """Read what is one whole head and nothing else, if it is a usual one.

        Args:
            head: what may be one.
            parser: reads its fields.

        Returns:
            What :meth:`read_head` would return; or ``None``: then :meth:`read_head` has to be asked.

        Raises:
            Refusal: as :meth:`read_head` would.
        """
        match = _PLAIN_HEAD.fullmatch(head)
        if match is None or len(head) > self._unmeasured_size or not head.isascii():
            return None
        count = head.count(b"\r\n") - 2
        if count > self._field_count_limit:
            return None
        try:
            fields = parser.parse_plain(head, count)
        except HeadSyntaxError:
            return None
        variables: dict[str, str] = {}
        try:
            # What name_fields() does, in half the time: names are known, none is repeated, and UTF-8 is ASCII here.
            for name, value in fields.items():
                variables[_VARIABLE_NAMES[name]] = value.decode()
        except KeyError:
            variables = name_fields(fields.items())
        if len(variables) != count:
            return None
        variables.pop("", None)
        method, target, minor = match.groups()
        if method == b"CONNECT":
            return None
        return self._accept(head, method.decode(), target.decode(), minor == b"1", variables)

    def read_head(self, head: bytes, parser: HeadParser) -> RequestHead:
        """Read one whole head, from the request line to the empty line that ends it.

        Args:
            head: its bytes.
            parser: reads its fields.

        Raises:
            Refusal: it is not acceptable.
        """
        return self.read_plain_head(head, parser) or self.read_head_by_rules(head, parser)

    def read_head_by_rules(self, head: bytes, parser: HeadParser) -> RequestHead:
        """Read a head as :meth:`read_head` does, but apply the rules one by one."""
        self.check_head(head)
        method, target, http_version = self._check_request_line(head)
        try:
            field_lines = parser.parse(head, head.count(b"\n") - 2)
        except HeadSyntaxError as error:
            raise Refusal(400, "malformed request head") from error
        # RFC 9112 §5.1: the whitespace after a value is not part of it; llhttp drops only what stands before it.
        stripped = [(name, value.rstrip(b" \t")) for name, value in field_lines]
        return self._accept(head, method, target, http_version == "1.1", name_fields(stripped))

    def check_head(self, head: bytes) -> None:
        """Apply the rules on raw bytes, one by one.

        Args:
            head: one whole head.

        Raises:
            Refusal: the head is malformed, too large, or frames its content in a way that is not acceptable.
        """
        if head.find(b"\r\n") > self._line_limit:
            raise Refusal(414, "request line too long")
        if len(head) > self._head_limit:
            raise Refusal(431, "request head too large")
        if len(head) > self._field_limit and max(map(len, head.split(b"\r\n")[1:])) > self._field_limit:
            raise Refusal(431, "request header field too large")
        line_count = head.count(b"\r\n")
        # Deleting all that is not a control character must leave nothing but whole line ends.
        if head.translate(None, NOT_CONTROL) != b"\r\n" * line_count:
            raise Refusal(400, "control character or bare line end in the request head")
        if line_count - 2 > self._field_count_limit:
            raise Refusal(431, "too many request header fields")
        if b"\r\n " in head or b"\r\n\t" in head:
            # RFC 9112 §5.2: obs-fold; §2.2: whitespace before the first field.
            raise Refusal(400, "folded field line in the request head")
        _, _, http_version = self._check_request_line(head)
        self._framing(head, http_version)
        # RFC 9112 §3.2: exactly one Host in HTTP/1.1; in HTTP/1.0 none is fine, two never are.
        host_count = head.lower().count(b"\r\nhost:")
        if host_count != 1 and (host_count or http_version == "1.1"):
            raise Refusal(400, "Host field repeated" if host_count else "Host field missing")

    def _check_request_line(self, head: bytes) -> tuple[str, str, str]:
        match = _REQUEST_LINE.match(head)
        if match is None:
            raise Refusal(400, "malformed request line")
        method, target, major, minor = match.groups()
        if major != b"1" or minor not in b"01":
            raise Refusal(505, "HTTP version not supported")
        if len(method) > _METHOD_SIZE or method == b"CONNECT":
            raise Refusal(501, "method not implemented")
        return method.decode("ascii"), target.decode("ascii"), "1.1" if minor == b"1" else "1.0"

    def _framing(self, head: bytes, http_version: str) -> int | None:
        """Decide how the content is framed, from the raw field lines: RFC 9112 section 6."""
        lengths: list[bytes] = []
        codings: list[bytes] = []
        for name, value in _FRAMING_LINE.findall(head.lower()):
            (lengths if name == b"content-length" else codings).append(value.strip(b" \t"))
        if codings:
            # RFC 9112 §6.1: a server MAY reject both together; §6.1 again: not in HTTP/1.0.
            if lengths:
                raise Refusal(400, "Content-Length together with Transfer-Encoding")
            if http_version != "1.1":
                raise Refusal(400, "Transfer-Encoding in an HTTP/1.0 request")
            if codings != [b"chunked"]:
                raise _transfer_coding_refusal(codings)
            return None
        if not lengths:
            return 0
        if len(lengths) > 1:
            raise Refusal(400, "Content-Length repeated")
        if not _CONTENT_LENGTH.fullmatch(lengths[0]):
            raise Refusal(400, "malformed Content-Length")
        if len(lengths[0]) > _CONTENT_LENGTH_DIGITS or int(lengths[0]) > self._body_limit:
            raise Refusal(413, "request content too large")
        return int(lengths[0])

    def _accept(self, head: bytes, method: str, target: str, http_11: bool, variables: dict[str, str]) -> RequestHead:
        """Apply the rules on the meaning of a head whose syntax a parser has accepted.

        Args:
            head: all of its bytes.
            method: of its request line.
            target: likewise.
            http_11: its version is HTTP/1.1, else 1.0.
            variables: its fields, from :func:`name_fields`.

        Raises:
            Refusal: a field or the target is not acceptable.
        """
        content_length: int | None = 0
        if "CONTENT_LENGTH" in variables or "HTTP_TRANSFER_ENCODING" in variables:
            content_length = self._framing(head, "1.1" if http_11 else "1.0")
            variables.pop("HTTP_TRANSFER_ENCODING", None)
        # RFC 9112 §3.2: exactly one Host in HTTP/1.1; in HTTP/1.0 none is fine.
        if "HTTP_HOST" in variables:
            if not is_host(variables["HTTP_HOST"]):
                raise Refusal(400, "invalid Host")
        elif http_11:
            raise Refusal(400, "Host field missing")
        persistent = http_11
        if "HTTP_CONNECTION" in variables:
            persistent = _persistent(variables["HTTP_CONNECTION"].lower(), http_11)
        if "HTTP_EXPECT" in variables:
            _check_expectation(variables["HTTP_EXPECT"])
        if target[0] == "/":
            path, _, query = target.partition("?")
        else:
            path, query = _read_other_form(method, target, variables)
        return RequestHead(
            method,
            target,
            path,
            query,
            "1.1" if http_11 else "1.0",
            variables,
            content_length,
            persistent,
            # RFC 9110 §10.1.1: ignored in HTTP/1.0, and where there is no content to wait for.
            "HTTP_EXPECT" in variables and http_11 and content_length != 0,
        )


def _check_expectation(value: str) -> None:
    """Refuse any expectation but the only one that RFC 9110 section 10.1.1 defines."""
    if any(part.strip(" \t") != "100-continue" for part in value.lower().split(",")):
        raise Refusal(417, "unknown expectation")


def _read_other_form(method: str, target: str, variables: dict[str, str]) -> tuple[str, str]:
    """Read a target in absolute-form or asterisk-form: RFC 9112 sections 3.2.2 and 3.2.4."""
    if target == "*" and method == "OPTIONS":
        return "*", ""
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None or not is_host(match[1]):
        raise Refusal(400, "invalid request target")
    # RFC 9112 §3.2.2: the target's authority replaces whatever Host says.
    variables["HTTP_HOST"] = match[1]
    return match[2] or "/", match[3] or ""


@lru_cache(maxsize=64)
def _persistent(connection: str, http_11: bool) -> bool:
    """Read the Connection fields, joined, in lower case: RFC 9112 section 9.3. ``close`` wins, wherever it stands."""
    options = {option.strip(" \t") for option in connection.split(",")}
    return "close" not in options and (http_11 or "keep-alive" in options)


def _transfer_coding_refusal(codings: list[bytes]) -> Refusal:
    """Choose between 400 and 501 for a Transfer-Encoding that is not exactly ``chunked``: RFC 9112 section 6.1."""
    names = [name.strip(b" \t") for value in codings for name in value.split(b",")]
    if b"" in names or b"chunked" in names[:-1]:
        return Refusal(400, "malformed Transfer-Encoding")
    return Refusal(501, "transfer coding not implemented")
