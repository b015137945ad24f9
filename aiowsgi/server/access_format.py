"""The format of the access log, compiled once into a function that makes a line from an exchange.

Formats are gunicorn's, which are Apache's with ``%(name)s`` around each letter, and so are the lines; a few names are
new, for what only this server knows. What a client, or an application, chose is escaped: no value can end its line,
close its quotation marks, or pass for another column. A line is ASCII.

Thread: any.

Source: https://docs.gunicorn.org/en/stable/settings.html "access_log_format"; Apache httpd, "Security Considerations"
of mod_log_config, for the escapes; RFC 7617 for the user.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from aiowsgi.semantics import variable_name
from aiowsgi.server.observed import UNKNOWN_HEAD

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from aiowsgi.server.observed import ObservedExchange

__all__ = ["ATOMS", "CompiledFormat", "compile_format", "escape", "user_name"]

# What a format may hold: a name with what printf allows after it, or a percent sign. Deployers write it, not clients.
_DIRECTIVE = re.compile(
    r"%(?:\((?P<name>[^()]*)\)(?P<spec>[#0\-+ ]*[0-9]{0,3}(?:\.[0-9]{1,3})?)(?P<kind>[diouxXeEfFgGrsa])|%)"
)
_NAMED_VALUE = re.compile(r"\{([^{}]+)\}([ioe])")
# What is not printable ASCII, or not harmless: between quotation marks, or, the second, outside of them.
_NOT_QUOTABLE = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_NOT_A_WORD = re.compile(r"[^\x21\x23-\x5b\x5d-\x7e]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

#: What each name stands for, as Python over ``x`` (the exchange), ``head``, ``sent`` (the request's fields, named as in
#: environ) and ``answered`` (the response's); whether the value may have to be escaped; what the README says.
ATOMS: dict[str, tuple[str, bool, str]] = {
    "h": ("x.client_address or '-'", True, "address of the client; `-` for a Unix socket"),
    "l": ("'-'", False, "`-`"),
    "u": ("user_name(sent.get('HTTP_AUTHORIZATION'))", True, "user of Basic authentication"),
    "t": ("clock_text()", False, "time, as `[21/Nov/2026:12:00:00 +0000]`"),
    "r": (
        "f'{head.method} {head.target} HTTP/{head.http_version}' if head is not UNKNOWN_HEAD else refused_line(x)",
        True,
        "request line",
    ),
    "m": ("head.method", False, "method"),
    "U": ("head.path if '%' not in head.path else decoded(head.path)", True, "path, decoded"),
    "q": ("head.query", True, "query, without its `?`"),
    "H": ("PROTOCOLS[head.http_version]", False, "`HTTP/1.1` or `HTTP/1.0`"),
    "s": ("x.status_code or '-'", False, "status code"),
    "B": ("x.sent_size", False, "bytes of content in the answer"),
    "b": ("x.sent_size", False, "the same"),
    "f": ("sent.get('HTTP_REFERER') or '-'", True, "Referer"),
    "a": ("sent.get('HTTP_USER_AGENT') or '-'", True, "User-Agent"),
    "T": ("int(x.ended_at - x.arrived_at)", False, "seconds from the end of the request's head to that of its answer"),
    "M": ("int(1_000 * (x.ended_at - x.arrived_at))", False, "the same in milliseconds"),
    "D": ("int(1_000_000 * (x.ended_at - x.arrived_at))", False, "the same in microseconds"),
    "L": ("f'{x.ended_at - x.arrived_at:.6f}'", False, "the same in seconds, with six decimals"),
    "p": ("PID", False, "process id, as `<123>`"),
    "queue_time": ("f'{x.queue_time:.6f}'", False, "seconds that the request waited for a thread"),
    "thread_time": ("f'{x.thread_time:.6f}'", False, "seconds that a thread took for it"),
    "write_time": ("f'{x.write_time:.6f}'", False, "seconds from there until its client had taken the answer"),
    "request_id": ("x.request_id or '-'", False, "id of the request"),
    "outcome": ("x.outcome", False, "how the answer ended"),
    "reason": ("x.refusal.detail if x.refusal else '-'", True, "why the server answered by itself"),
}


class CompiledFormat:
    """A format that was compiled.

    Args:
        make_line: returns a line, with its line end.
        reads_environ: whether ``make_line`` reads environ.
    """

    __slots__ = ("make_line", "reads_environ")

    def __init__(self, make_line: Callable[[ObservedExchange], str], reads_environ: bool) -> None:
        self.make_line = make_line
        self.reads_environ = reads_environ


def compile_format(text: str) -> CompiledFormat:
    """Compile a format.

    The line is one f-string. Values that may have to be escaped are checked all together, and each by itself only if
    something in them has to be. A space is harmless in quotation marks; outside of them it would begin another column.

    Raises:
        ValueError: the format cannot be understood; the message says where.
    """
    template: list[str] = []
    values: dict[str, str] = {}
    suspects: dict[bool, list[str]] = {True: [], False: []}
    quoted = False
    end = 0
    for match in _DIRECTIVE.finditer(text):
        literal = text[end : match.start()]
        end = match.end()
        quoted ^= literal.count('"') % 2 == 1
        template.append(_literal(literal))
        if match["name"] is None:
            template.append("%")
            continue
        variable = f"v{len(values)}"
        values[variable], foreign = _expression(match["name"])
        if match["name"] == "r" and not quoted:
            # A request line has two spaces of its own; one that was refused may have any number.
            values[variable] += ".replace(' ', '_')"
            suspects[True].append(variable)
        elif foreign:
            suspects[quoted].append(variable)
        spec = f"%{match['spec']}{match['kind']}"
        template.append(f"{{{variable}}}" if spec == "%s" else f"{{printf({spec!r}, {variable})}}")
    template.append(_literal(text[end:]))
    return _build(values, suspects, "".join(template))


def _literal(text: str) -> str:
    """Return the literal part of a format as an f-string writes it."""
    if "%" in text:
        at = text[text.index("%") :][:20]
        raise ValueError(f"{at!r} is not understood: write %(name)s, or %% for a percent sign")
    # Not by a codec: one that is first needed in a process without rights to the standard library is not found there.
    return ascii(text)[1:-1].replace('"', '\\"').replace("{", "{{").replace("}", "}}")


def _expression(name: str) -> tuple[str, bool]:
    """Return the Python that a name stands for, and whether its value may have to be escaped."""
    if name in ATOMS:
        expression, foreign, _ = ATOMS[name]
        return expression, foreign
    match = _NAMED_VALUE.fullmatch(name)
    if match is None:
        raise ValueError(f"%({name})s is not known")
    if match[2] == "e":
        return f"variable(x.environ, {match[1]!r})", True
    if match[2] == "i":
        return f"sent.get({variable_name(match[1])!r}) or '-'", True
    return f"answered.get({match[1].lower()!r}) or '-'", True


def _build(values: dict[str, str], suspects: dict[bool, list[str]], template: str) -> CompiledFormat:
    """Write the function, and compile it."""
    expressions = " ".join(values.values())
    lines = ["def make_line(x):", " head = x.head"]
    if "sent." in expressions:
        lines.append(" sent = head.variables")
    if "answered." in expressions:
        lines.append(" answered = answered_fields(x)")
    lines += [f" {variable} = {expression}" for variable, expression in values.items()]
    for quoted, variables in suspects.items():
        if variables:
            space = "" if quoted else " or ' ' in text"
            lines.append(f" text = {' + '.join(variables)}")
            lines.append(f" if not (text.isascii() and text.isprintable()) or '\"' in text or '\\\\' in text{space}:")
            lines += [f"  {variable} = escape({variable}, {quoted})" for variable in variables]
    lines.append(f' return f"{template}\\n"')
    names: dict[str, Any] = {
        "PID": f"<{os.getpid()}>",
        "PROTOCOLS": {"1.1": "HTTP/1.1", "1.0": "HTTP/1.0", "-": "-"},
        "UNKNOWN_HEAD": UNKNOWN_HEAD,
        "answered_fields": _answered_fields,
        "clock_text": _clock_text,
        "decoded": _decoded,
        "escape": escape,
        "printf": _printf,
        "refused_line": _refused_line,
        "user_name": user_name,
        "variable": _variable,
    }
    exec(compile("\n".join(lines), "<access_logformat>", "exec"), names)
    return CompiledFormat(names["make_line"], "x.environ" in expressions)


def escape(text: str, quoted: bool = True) -> str:
    r"""Return a value as it may appear in a line: whatever is not harmless becomes ``\xHH`` or ``\uHHHH``.

    Args:
        text: of whatever origin.
        quoted: it stands between quotation marks.
    """
    return (_NOT_QUOTABLE if quoted else _NOT_A_WORD).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _printf(spec: str, value: object) -> str:
    try:
        return spec % value
    except (TypeError, ValueError):  # a number was asked for where there is none
        return str(value)


def user_name(authorization: str | None) -> str:
    """Return the user of Basic authentication; ``-`` where there is none. Unverified: it is what the client says."""
    if authorization is None or authorization[:6].lower() != "basic ":
        return "-"
    try:
        credentials = base64.b64decode(authorization[6:].strip().encode("latin-1"))
    except ValueError:
        return "-"
    return credentials.partition(b":")[0].decode("utf-8", "backslashreplace") or "-"


def _decoded(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")


def _refused_line(x: ObservedExchange) -> str:
    return (x.refusal and x.refusal.request_line) or "-"


def _answered_fields(x: ObservedExchange) -> dict[str, str]:
    if x.response is None:
        return {}
    fields = {name.lower(): value for name, value in x.response.fields}
    if x.response.content_length is not None:
        fields["content-length"] = str(x.response.content_length)
    return fields


def _variable(environ: WSGIEnvironment | None, name: str) -> str:
    """Return a variable of environ, whose name may be written in lower case, as gunicorn wants it."""
    if environ is not None:
        for key in (name, name.upper(), name.lower()):
            if key in environ:
                return str(environ[key]) or "-"
    return "-"


_clock: tuple[int, str] = (0, "")


def _clock_text() -> str:
    """Return the local time, made once a second. The pair is replaced whole."""
    global _clock
    now = int(time.time())
    second, text = _clock
    if second != now:
        local = time.localtime(now)
        # Not strftime("%b"), which follows the process's locale.
        text = time.strftime(f"[%d/{_MONTHS[local.tm_mon - 1]}/%Y:%H:%M:%S %z]", local)
        _clock = (now, text)
    return text
