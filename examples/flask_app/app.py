"""A small Flask application that uses what a WSGI server has to carry.

Run it in this folder with ``aiowsgi app:app``.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import (
    Blueprint,
    Flask,
    Response,
    current_app,
    g,
    jsonify,
    redirect,
    render_template,
    request,
    send_file,
    send_from_directory,
    session,
    stream_with_context,
    url_for,
)
from werkzeug.exceptions import HTTPException
from werkzeug.utils import secure_filename

pages = Blueprint("pages", __name__)


def create_app(**config: object) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(
        SECRET_KEY=os.environ.get("SECRET_KEY") or secrets.token_hex(),
        FILES_FOLDER=os.environ.get("FILES_FOLDER"),
        MAX_CONTENT_LENGTH=64 * 1024 * 1024,
    )
    app.config.update(config)
    if not app.config["FILES_FOLDER"]:
        app.config["FILES_FOLDER"] = tempfile.mkdtemp(prefix="flask_app-")
    os.makedirs(app.config["FILES_FOLDER"], exist_ok=True)
    app.extensions["statistics"] = Statistics()
    app.extensions["board"] = Board()
    app.register_blueprint(pages)
    return app


class Statistics:
    """Counts of requests. Many threads share it, hence the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.started = self.finished = self.failed = 0

    def add(self, *, started: int = 0, finished: int = 0, failed: int = 0) -> None:
        with self._lock:
            self.started += started
            self.finished += finished
            self.failed += failed


class Board:
    """Passes each text on to everybody who watches at that moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: set[queue.SimpleQueue[str]] = set()

    def say(self, text: str) -> int:
        with self._lock:
            for watcher in self._watchers:
                watcher.put(text)
            return len(self._watchers)

    @contextmanager
    def watcher(self) -> Iterator[queue.SimpleQueue[str]]:
        texts: queue.SimpleQueue[str] = queue.SimpleQueue()
        with self._lock:
            self._watchers.add(texts)
        try:
            yield texts
        finally:
            with self._lock:
                self._watchers.discard(texts)


@pages.before_app_request
def count_start() -> None:
    g.counted = True
    current_app.extensions["statistics"].add(started=1)


@pages.teardown_app_request
def count_end(error: BaseException | None) -> None:
    """Flask calls this when a view has returned, and once more when a ``stream_with_context`` ends."""
    if g.pop("counted", False):
        current_app.extensions["statistics"].add(finished=1, failed=error is not None)


@pages.get("/statistics")
def statistics() -> Response:
    counts = current_app.extensions["statistics"]
    return jsonify(started=counts.started, finished=counts.finished, failed=counts.failed)


@pages.get("/")
def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return render_template("index.html", visits=session["visits"])


@pages.route("/request", methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def show_request() -> Response:
    return jsonify(
        method=request.method,
        url=request.url,
        script_name=request.root_path,
        path=request.path,
        arguments=request.args.to_dict(flat=False),
        fields=request.form.to_dict(flat=False),
        headers=list(request.headers.items()),
        cookies=request.cookies,
        protocol=request.environ["SERVER_PROTOCOL"],
        client=[request.environ["REMOTE_ADDR"], request.environ["REMOTE_PORT"]],
        thread=threading.current_thread().name,
    )


@pages.get("/hello/<name>")
def hello(name: str) -> Response:
    response = Response(f"Hello, {name}!\n", mimetype="text/plain")
    response.add_etag()
    return response.make_conditional(request)  # 304 where the client's copy is the same


@pages.post("/preferences")
def preferences() -> Response:
    session["name"] = request.form["name"]
    response = redirect(url_for(".index"), code=303)
    response.set_cookie("theme", request.form.get("theme", "light"), samesite="Lax")
    response.set_cookie("language", request.form.get("language", "en"), samesite="Lax")
    return response


@pages.post("/files")
def upload() -> tuple[Response, int]:
    """Take a file from a form; Werkzeug has already put a large one into a temporary file."""
    file = request.files["file"]
    path = file_path(file.filename or "")
    file.save(path)
    with path.open("rb") as saved:
        digest = hashlib.file_digest(saved, "sha256").hexdigest()
    return stored(path, digest)


@pages.put("/files/<name>")
def put(name: str) -> tuple[Response, int]:
    """Take the request's content as it is, block by block; its length need not be known."""
    path = file_path(name)
    digest = hashlib.sha256()
    with path.open("wb") as saved:
        while block := request.stream.read(64 * 1024):
            digest.update(block)
            saved.write(block)
    return stored(path, digest.hexdigest())


def file_path(name: str) -> Path:
    return Path(current_app.config["FILES_FOLDER"], secure_filename(name) or "unnamed")


def stored(path: Path, digest: str) -> tuple[Response, int]:
    location = url_for(".download", name=path.name, _external=True)
    response = jsonify(name=path.name, size=path.stat().st_size, sha256=digest, url=location)
    response.headers["Location"] = location
    return response, 201


@pages.get("/files/<name>")
def download(name: str) -> Response:
    """Flask answers Range, If-None-Match and If-Modified-Since; the server sends the file."""
    return send_from_directory(current_app.config["FILES_FOLDER"], name)


@pages.get("/report.txt")
def report() -> Response:
    """Send what is a file only in memory."""
    content = io.BytesIO(b"".join(b"line %d\n" % number for number in range(1000)))
    return send_file(content, mimetype="text/plain", as_attachment=True, download_name="report ✓.txt")


@pages.get("/rows.csv")
def rows() -> Response:
    """Stream a response of unknown length; the request stays usable while it lasts."""

    @stream_with_context
    def lines() -> Iterator[str]:
        yield "number,square\n"
        for number in range(request.args.get("rows", 1000, type=int)):
            yield f"{number},{number**2}\n"

    return Response(lines(), mimetype="text/csv")


@pages.get("/watch")
def watch() -> Response:
    """Server-sent events: each text that anybody says, as soon as it is said, until an empty one."""

    @stream_with_context
    def events() -> Iterator[str]:
        with current_app.extensions["board"].watcher() as texts:
            yield f"event: welcome\ndata: {request.args.get('name', 'you')}\n\n"
            text = None
            while text != "":
                try:
                    text = texts.get(timeout=15)
                except queue.Empty:
                    yield ": waiting\n\n"  # a comment now and then tells whether the client is still there
                else:
                    yield f"data: {text}\n\n"

    return Response(events(), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})


@pages.post("/say")
def say() -> Response:
    return jsonify(watchers=current_app.extensions["board"].say(request.form["text"]))


@pages.get("/broken")
def broken() -> Response:
    raise RuntimeError("this view is broken on purpose")


@pages.app_errorhandler(404)
@pages.app_errorhandler(500)
def error_page(error: HTTPException) -> tuple[str, int]:
    return render_template("error.html", error=error), error.code or 500


app = create_app()
