"""Response headers that cannot be sent, or are not the application's to send."""

from __future__ import annotations

from tests.apps.fault import SECRET, Faults

FAULTS = Faults("PEP 3333")


def answering(response_headers):
    def application(environ, start_response):
        start_response("200 OK", response_headers)
        return [SECRET.encode()]

    return application


for name, value in {
    "CR LF and a field": f"a\r\nX-Injected: {SECRET}",
    "CR LF CR LF and content": f"a\r\n\r\n{SECRET}",
    "LF": f"a\n{SECRET}",
    "CR": f"a\r{SECRET}",
    "LF last": f"{SECRET}\n",
    "CR LF first": f"\r\n{SECRET}",
    "a fold": f"a\r\n {SECRET}",
    "NUL": f"a\0{SECRET}",
    "DEL": f"a\x7f{SECRET}",
    "a bell": f"a\x07{SECRET}",
    "a vertical tab": f"a\x0b{SECRET}",
    "an escape": f"\x1b[31m{SECRET}",
    "text beyond latin-1": f"{SECRET} €",
    "a surrogate": f"{SECRET} \udce9",
    "another line separator": f"a\u2028{SECRET}",
}.items():
    FAULTS.add(f"value: {name}", answering([("X-Field", value)]), "X-Field", "The start_response() Callable")

for name, field_name in {
    "nothing": "",
    "a colon": "X-Field:",
    "a space": "X Field",
    "a space last": "X-Field ",
    "CR LF": f"X-Field: a\r\nX-Injected: {SECRET}\r\nX",
    "LF": f"X\n{SECRET}",
    "NUL": f"X\0{SECRET}",
    "latin-1 letters": "X-Caf\xe9",
    "text beyond latin-1": "X-€",
    "brackets": "X(Field)",
    "quotes": '"X-Field"',
    "a slash": "X/Field",
}.items():
    FAULTS.add(f"name: {name}", answering([(field_name, SECRET)]), "RFC 9110", "The start_response() Callable")

for name, item in {
    "a name in bytes": (b"X-Field", SECRET),
    "a value in bytes": ("X-Field", SECRET.encode()),
    "a value that is an int": ("X-Field", 5),
    "a value that is None": ("X-Field", None),
    "a value that is a list": ("X-Field", [SECRET]),
}.items():
    FAULTS.add(f"types: {name}", answering([item]), "native string", "A Note On String Types")

for name, item in {
    "a list": ["X-Field", SECRET],
    "a tuple of one": ("X-Field",),
    "a tuple of three": ("X-Field", SECRET, "x"),
    "a line": f"X-Field: {SECRET}",
    "text of two characters": "ab",
    "None": None,
    "a dict": {"X-Field": SECRET, "b": "c"},
}.items():
    FAULTS.add(f"item: {name}", answering([item]), "(name, value)", "The start_response() Callable")

for name, response_headers in {
    "a tuple": (("X-Field", SECRET),),
    "a dict": {"X-Field": SECRET},
    "a dict view": {"X-Field": SECRET}.items(),
    "None": None,
    "an iterator": iter([("X-Field", SECRET)]),
    "text": f"X-Field: {SECRET}",
    "nothing in a tuple": (),
}.items():
    FAULTS.add(f"headers: {name}", answering(response_headers), "not a list", "The start_response() Callable")

for field_name, value in {
    "Connection": "close",
    "connection": "keep-alive",
    "Keep-Alive": "timeout=5",
    "Proxy-Authenticate": "Basic",
    "Proxy-Authorization": "Basic",
    "Proxy-Connection": "close",
    "TE": "trailers",
    "Trailer": "X-Field",
    "Transfer-Encoding": "chunked",
    "TRANSFER-ENCODING": "identity",
    "Upgrade": "websocket",
}.items():
    FAULTS.add(
        f"hop-by-hop: {field_name}",
        answering([("X-Field", SECRET), (field_name, value)]),
        field_name,
        "hop-by-hop",
        "The start_response() Callable",
    )
