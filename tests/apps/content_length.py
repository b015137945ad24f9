"""A ``Content-Length`` that is wrong by itself, or not the length of the content."""

from __future__ import annotations

from tests.apps.fault import SECRET, Faults, Outcome

FAULTS = Faults("Content-Length", 'PEP 3333 "Handling the Content-Length Header"')


def declaring(*values, names=("Content-Length", "content-length")):
    """Declare each value; answer with five bytes."""

    def application(environ, start_response):
        start_response("200 OK", list(zip(names, values, strict=False)))
        return [b"12345"]

    return application


FAULTS.add("length: twice the same", declaring("5", "5"), "more than one")
FAULTS.add("length: twice, in the same case", declaring("5", "5", names=("Content-Length",) * 2), "more than one")
FAULTS.add("length: twice, and different", declaring("5", "50"), "more than one")
for name, value in {
    "negative": "-5",
    "with a sign": "+5",
    "hexadecimal": "0x5",
    "a fraction": "5.0",
    "an exponent": "5e0",
    "a list": "5, 5",
    "a word": SECRET,
    "nothing": "",
    "a space": " 5",
    "a space after": "5 ",
    "an underscore": "0_5",
    "a superscript": "\xb2",
    "too many digits": "5" * 5000,
}.items():
    FAULTS.add(f"length: {name}", declaring(value), "not a number")


def sending(length, blocks, shape):
    """Declare a length and send blocks, as a list, as an iterator or by ``write()``."""

    def application(environ, start_response):
        write = start_response("200 OK", [("Content-Length", str(length))])
        if shape == "write":
            for block in blocks:
                write(block)
            return []
        return list(blocks) if shape == "list" else iter(blocks)

    return application


SECRET_BLOCK = SECRET.encode()

for shape in ("list", "iterator", "write"):
    FAULTS.add(f"{shape}: longer, in one block", sending(5, [b"12345" + SECRET_BLOCK], shape))
    FAULTS.add(f"{shape}: content where zero was declared", sending(0, [SECRET_BLOCK], shape))
FAULTS.add("list: longer, in a later block", sending(5, [b"123", b"45" + SECRET_BLOCK], "list"))
FAULTS.add("list: shorter", sending(500, [SECRET_BLOCK], "list"), "500")
FAULTS.add("list: nothing at all", sending(500, [], "list"), "500")
FAULTS.add("iterator: nothing at all", sending(500, [b""], "iterator"), "500")
for shape in ("iterator", "write"):
    FAULTS.add(
        f"{shape}: longer, in a later block",
        sending(5, [b"123", b"45" + SECRET_BLOCK], shape),
        "longer",
        outcome=Outcome.BROKEN_OFF,
        content=b"123",
    )
    FAULTS.add(
        f"{shape}: shorter",
        sending(8, [b"123", b"45"], shape),
        "3 bytes shorter",
        outcome=Outcome.BROKEN_OFF,
        content=b"12345",
    )
    FAULTS.add(
        f"{shape}: goes on after the end",
        sending(5, [b"123", b"45", SECRET_BLOCK], shape),
        "longer",
        outcome=Outcome.COMPLETE,
        content=b"12345",
    )
    FAULTS.add(
        f"{shape}: goes on after the end of one block",
        sending(5, [b"12345", SECRET_BLOCK], shape),
        "longer",
        outcome=Outcome.COMPLETE,
        content=b"12345",
    )
