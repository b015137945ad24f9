"""Memory of large bodies is kept for the next, in the processes that are ours."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests.gunicorn_worker.gunicorn_process import gunicorn
from tests.process.server_process import server_process

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the threshold is glibc's")

# Eight bodies at a time, as eight connections have under way; each of their pages that is new is a fault.
SOURCE = """
import resource

def app(environ, start_response):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bodies = [b"x" * 1_000_000 for _ in range(8)]
        del bodies
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before).encode()]
"""
PAGES_OF_A_ROUND = 8 * 1_000_000 // 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "large.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_pages_of_large_bodies_are_used_again_by_the_next(folder: Path, workers: str) -> None:
    arguments = ("large:app", "--bind=127.0.0.1:0", f"--workers={workers}")
    with server_process(folder, *arguments) as server, server.connect() as client:
        assert int(client.get().content) < 3 * PAGES_OF_A_ROUND


def test_pages_of_large_bodies_are_used_again_under_gunicorn(folder: Path) -> None:
    with gunicorn(folder, app="large:app") as server, server.connect() as client:
        assert int(client.get().content) < 3 * PAGES_OF_A_ROUND


def test_operator_who_sets_the_allocator_has_the_last_word(folder: Path) -> None:
    with (
        server_process(folder, "large:app", "--bind=127.0.0.1:0", MALLOC_MMAP_THRESHOLD_="65536") as server,
        server.connect() as client,
    ):
        assert int(client.get().content) > 15 * PAGES_OF_A_ROUND
