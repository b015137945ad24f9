"""A small WSGI application to try a server with: ``aiowsgi aiowsgi.demo:app``.

Its page shows the request as the application saw it, the thread that served it, a response that arrives block
by block, and what the application received of an upload. It is plain PEP 3333 with nothing but the standard
library, and runs on any WSGI server.

Thread: worker. Nothing is shared between requests.

Implements: PEP 3333; RFC 9110 sections 15.5.5 (404) and 15.5.6 (405).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from string import Template
from urllib.parse import parse_qs, quote
from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["app"]

BLOCK_COUNT = 16
BLOCK_INTERVAL = 0.25  # seconds
READ_SIZE = 64 * 1024

Headers = Sequence[tuple[str, str]]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request: ``/`` is the page, ``/stream`` the blocks, ``/upload`` describes what was sent to it."""
    path = environ.get("PATH_INFO", "") or "/"
    if path not in ROUTES:
        shown = path.encode("latin-1").decode("utf-8", "replace")
        return plain(start_response, "404 Not Found", f"There is nothing at {shown}.\n")
    endpoint, methods = ROUTES[path]
    if environ["REQUEST_METHOD"] not in methods:
        # RFC 9110 §15.5.6: the answer MUST name the methods that are allowed.
        allowed = ", ".join(methods)
        return plain(start_response, "405 Method Not Allowed", f"Allowed: {allowed}.\n", [("Allow", allowed)])
    return endpoint(environ, start_response)


def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The HTML page."""
    # SCRIPT_NAME is where this application is mounted, percent-decoded into latin-1.
    mount = quote(environ.get("SCRIPT_NAME", "").encode("latin-1"))
    rows = "\n".join(
        f"<tr><th scope=row><code>{html.escape(name)}</code><td><code>{html.escape(repr(value))}</code>"
        for name, value in sorted(environ.items())
    )
    document = PAGE.substitute(
        style=STYLE,
        script=SCRIPT,
        rows=rows,
        thread=html.escape(threading.current_thread().name),
        software=html.escape(environ.get("SERVER_SOFTWARE", "a WSGI server")),
        stream=html.escape(f"{mount}/stream"),
        upload=html.escape(f"{mount}/upload"),
    )
    headers = [("Content-Security-Policy", POLICY), ("Referrer-Policy", "no-referrer")]
    return respond(start_response, "200 OK", "text/html; charset=utf-8", document, headers)


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Blocks that are produced one after another; each should reach the client when it is yielded."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else blocks()


def blocks() -> Iterator[bytes]:
    """The lines of ``/stream``."""
    begun = time.monotonic()
    thread = threading.current_thread().name
    for number in range(1, BLOCK_COUNT + 1):
        elapsed = time.monotonic() - begun
        yield f"block {number} of {BLOCK_COUNT}, {elapsed:.2f} s after the first, from {thread}\n".encode()
        if number < BLOCK_COUNT:
            time.sleep(BLOCK_INTERVAL)


def upload(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Describe a file as it arrived: its name (from ``?name=``), size and SHA-256, as JSON."""
    # Query strings are bytes that PEP 3333 shows as latin-1; this one is UTF-8 within percent-encoding.
    name = parse_qs(environ.get("QUERY_STRING", "")).get("name", [""])[0]
    begun = time.monotonic()
    digest, size = hashlib.sha256(), 0
    for block in content(environ):
        digest.update(block)
        size += len(block)
    expected = environ.get("CONTENT_LENGTH")
    if expected and size < int(expected):
        return plain(start_response, "400 Bad Request", f"Only {size} of {expected} bytes arrived.\n")
    answer = {
        "name": name,
        "size": size,
        "sha256": digest.hexdigest(),
        "type": environ.get("CONTENT_TYPE", ""),
        "thread": threading.current_thread().name,
        "seconds": round(time.monotonic() - begun, 3),
    }
    return respond(
        start_response, "200 OK", "application/json", json.dumps(answer, indent=2, ensure_ascii=False) + "\n"
    )


def content(environ: WSGIEnvironment) -> Iterator[bytes]:
    """The request's content in blocks, so that a large upload is never in memory whole.

    PEP 3333 forbids reading beyond ``CONTENT_LENGTH``; without one, only a server that sets
    ``wsgi.input_terminated`` has content to read, up to the end of ``wsgi.input``.
    """
    length = environ.get("CONTENT_LENGTH")
    remaining = int(length) if length else None
    if remaining is None and not environ.get("wsgi.input_terminated"):
        return
    while remaining is None or remaining > 0:
        block = environ["wsgi.input"].read(READ_SIZE if remaining is None else min(READ_SIZE, remaining))
        if not block:
            return
        if remaining is not None:
            remaining -= len(block)
        yield block


def plain(start_response: StartResponse, status: str, text: str, headers: Headers = ()) -> Iterable[bytes]:
    """Answer with a line of text."""
    return respond(start_response, status, "text/plain; charset=utf-8", text, headers)


def respond(
    start_response: StartResponse, status: str, content_type: str, text: str, headers: Headers = ()
) -> Iterable[bytes]:
    """Answer with a complete text."""
    body = text.encode("utf-8", "backslashreplace")
    start_response(
        status,
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        ],
    )
    return [body]


Endpoint = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]

ROUTES: dict[str, tuple[Endpoint, tuple[str, ...]]] = {
    "/": (page, ("GET", "HEAD")),
    "/stream": (stream, ("GET", "HEAD")),
    "/upload": (upload, ("PUT", "POST")),
}

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f26; --back: #fff; --soft: #f4f6f9; --line: #d5d9e0; --accent: #0b57d0;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ef; --back: #14171c; --soft: #1d2128; --line: #3a404b; --accent: #8ab4f8; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem;
  background: var(--back); color: var(--text); font: 1rem/1.55 system-ui, sans-serif;
}
h1 { font-size: 1.9rem; margin: 0; letter-spacing: -.02em; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0 .8rem; }
code, pre { font: .875rem/1.5 ui-monospace, monospace; }
button, input::file-selector-button {
  font: inherit; padding: .4rem .95rem; border: 1px solid var(--accent); border-radius: .5rem;
  background: none; color: var(--accent); cursor: pointer;
}
button:hover:enabled { background: var(--soft); }
button:disabled { opacity: .5; cursor: default; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
pre, .table { border: 1px solid var(--line); border-radius: .6rem; background: var(--soft); overflow: auto; }
pre { min-height: 3.2rem; max-height: 22rem; padding: .8rem 1rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; }
tr + tr { border-top: 1px solid var(--line); }
th, td { text-align: left; vertical-align: top; font-weight: normal; padding: .35rem 1rem; }
th { white-space: nowrap; color: var(--accent); }
td { overflow-wrap: anywhere; min-width: 12rem; }
.row { display: flex; flex-wrap: wrap; gap: .75rem; align-items: center; }
"""

SCRIPT = """
"use strict";
const element = id => document.getElementById(id);

element("start").addEventListener("click", async event => {
  const button = event.target, blocks = element("blocks"), state = element("stream-state");
  button.disabled = true;
  blocks.textContent = "";
  state.textContent = "Streaming";
  const begun = performance.now();
  try {
    const response = await fetch(button.dataset.url);
    if (!response.ok) throw new Error("status " + response.status);
    const reader = response.body.getReader(), decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const seconds = ((performance.now() - begun) / 1000).toFixed(2);
      blocks.textContent += seconds + " s  " + decoder.decode(value, { stream: true });
      blocks.scrollTop = blocks.scrollHeight;
    }
    state.textContent = "Complete";
  } catch (error) {
    state.textContent = "Failed: " + error.message;
  }
  button.disabled = false;
});

element("upload").addEventListener("submit", async event => {
  event.preventDefault();
  const file = element("file").files[0], result = element("result");
  if (!file) return;
  result.textContent = "Sending " + file.name;
  try {
    const url = event.target.dataset.url + "?name=" + encodeURIComponent(file.name);
    const response = await fetch(url, { method: "PUT", body: file });
    result.textContent = await response.text();
  } catch (error) {
    result.textContent = "Failed: " + error.message;
  }
});
"""

PAGE = Template("""<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>aiowsgi at work</title>
<link rel=icon href="data:,">
<style>$style</style>
</head>
<body>
<main>
<h1>It works.</h1>
<p>A WSGI application made this page, in the thread <code>$thread</code> of <code>$software</code>.</p>

<h2 id=h-stream>A stream, block by block</h2>
<p>A generator yields a block about every quarter of a second. Each line shows when it reached this page.</p>
<p class=row><button id=start type=button data-url="$stream">Start the stream</button>
<span id=stream-state role=status></span></p>
<pre id=blocks tabindex=0 aria-labelledby=h-stream></pre>

<h2 id=h-upload>An upload, as the application saw it</h2>
<p>The file is read in blocks and kept nowhere; only its size and its digest come back.</p>
<form id=upload data-url="$upload" class=row>
<label for=file>File</label> <input id=file type=file required> <button>Upload</button>
</form>
<pre id=result role=status aria-labelledby=h-upload tabindex=0></pre>
<noscript><p>The stream and the upload need JavaScript in this page; <code>curl -N</code> and
<code>curl -T file</code> do as well.</p></noscript>

<h2 id=h-environ>The request, as the application saw it</h2>
<div class=table role=region aria-labelledby=h-environ tabindex=0>
<table>
$rows
</table>
</div>
</main>
<script>$script</script>
</body>
</html>
""")


def _source(text: str) -> str:
    """A Content-Security-Policy source that allows this inline text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_source(STYLE)}; script-src {_source(SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
