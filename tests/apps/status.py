"""Statuses that are not three digits, a space and a reason: PEP 3333 "The start_response() Callable"."""

from __future__ import annotations

from tests.apps.fault import SECRET, Faults

FAULTS = Faults("status", "PEP 3333")


def answering(status):
    def application(environ, start_response):
        start_response(status, [])
        return [SECRET.encode()]

    return application


for name, status in {
    "no reason and no space": "200",
    "no space": "200OK",
    "two digits": "20 OK",
    "four digits": "2000 OK",
    "no digits": "OK",
    "nothing": "",
    "a space first": " 200 OK",
    "a tab between": "200\tOK",
    "digits of another script": "２００ OK",
    "a sign": "-200 OK",
    "a line end last": "200 OK\r\n",
    "a line feed last": "200 OK\n",
    "a field in it": f"200 OK\r\nX-Injected: {SECRET}",
    "a carriage return in it": f"200 O\r{SECRET}",
    "a NUL in it": f"200 O\0{SECRET}",
    "a DEL in it": f"200 O\x7f{SECRET}",
    "an escape in it": f"200 \x1b[31m{SECRET}",
    "the version first": "HTTP/1.1 200 OK",
    "a code below 100": "099 Low",
    "text beyond latin-1": f"200 {SECRET} €",
    "100": "100 Continue",
    "101": "101 Switching Protocols",
    "103": "103 Early Hints",
    "199": "199 Miscellaneous",
}.items():
    FAULTS.add(f"status: {name}", answering(status), "The start_response() Callable")

for name, status in {
    "an int": 200,
    "bytes": b"200 OK",
    "None": None,
    "a tuple": (200, "OK"),
    "a bool": True,
}.items():
    FAULTS.add(f"status: {name}", answering(status), "native string", "A Note On String Types")
