"""The application that the workers run; its folder is the current one."""

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

VERSION = "1"

with Path("imports.log").open("a") as log:
    log.write(f"{os.getpid()}\n")


def block(signum, frame):
    """Hold the main thread, and with it the event loop."""
    Path("blocked").touch()
    threading.Event().wait(60)


if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGUSR2, block)


def hold(environ):
    """Run until a file appears."""
    Path("running").touch()
    while not Path("go").exists():
        time.sleep(0.005)
    return [b"done"]


def stream(environ):
    yield b"one, "
    yield b"two"


def upload(environ):
    return [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]


def environ_values(environ):
    names = ("wsgi.multiprocess", "wsgi.multithread", "wsgi.url_scheme", "SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR")
    return [" ".join(str(environ[name]) for name in names).encode()]


def file(environ):
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))


def fail(environ):
    raise ValueError("the application is broken")


def errors(environ):
    environ["wsgi.errors"].write("to the error log\n")
    environ["wsgi.errors"].writelines(["and ", "lines \u20ac\n"])
    environ["wsgi.errors"].flush()
    return [b"written"]


PAGES = {
    "/hold": hold,
    "/stream": stream,
    "/upload": upload,
    "/environ": environ_values,
    "/file": file,
    "/fail": fail,
    "/errors": errors,
}


def app(environ, start_response):
    page = PAGES.get(environ["PATH_INFO"])
    body = page(environ) if page else [f"{os.getpid()} {VERSION}".encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body
