"""Return values that are not iterables of bytes, and blocks that are not bytes."""

from __future__ import annotations

from tests.apps.fault import SECRET, Faults, Outcome

RETURNED = Faults("the application returned", "not an iterable", 'PEP 3333 "Specification Details"')
BLOCKS = Faults("not bytes", 'PEP 3333 "A Note On String Types"')


class Text(str):
    pass


def returning(value):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return value

    return application


async def coroutine(environ, start_response):
    start_response("200 OK", [])
    return [SECRET.encode()]


for name, value in {
    "None": None,
    "text": SECRET,
    "no text": "",
    "a subclass of text": Text(SECRET),
    "bytes": SECRET.encode(),
    "no bytes": b"",
    "a bytearray": bytearray(SECRET.encode()),
    "an int": 200,
    "a bool": True,
    "an object": object(),
    "a function": returning,
    "a class": Text,
}.items():
    RETURNED.add(f"returned: {name}", returning(value))
RETURNED.add("returned: a coroutine", coroutine, "coroutine")


def yielding(blocks, shape):
    def application(environ, start_response):
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if shape == "write":
            for block in blocks:
                write(block)
            return []
        return {"list": list, "tuple": tuple, "iterator": iter}[shape](blocks)

    return application


for shape in ("list", "tuple", "iterator", "write"):
    for name, block in {
        "text": SECRET,
        "no text": "",
        "a bytearray": bytearray(SECRET.encode()),
        "a memoryview": memoryview(SECRET.encode()),
        "an int": 5,
        "None": None,
        "a list of bytes": [SECRET.encode()],
    }.items():
        BLOCKS.add(f"{shape}: {name}", yielding([block], shape), type(block).__name__)
for shape in ("list", "tuple"):
    BLOCKS.add(f"{shape}: text after bytes", yielding([b"first", SECRET], shape), "str")
for shape in ("iterator", "write"):
    BLOCKS.add(f"{shape}: text after no bytes", yielding([b"", SECRET], shape), "str")
    BLOCKS.add(
        f"{shape}: text after bytes",
        yielding([b"first", SECRET], shape),
        "str",
        outcome=Outcome.BROKEN_OFF,
        content=b"first",
    )
