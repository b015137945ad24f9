from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.config import OPTIONS
from aiowsgi.configuration.file import FILE_NAME, MOST_SIZE, find_file, read_file
from aiowsgi.configuration.sources import Given
from aiowsgi.errors import ConfigError


def read(path: Path) -> tuple[list[Given], list[str]]:
    problems: list[str] = []
    return read_file(path, path.name, OPTIONS, problems), problems


def write(folder: Path, text: str, name: str = FILE_NAME) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def failure(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path)
    (problem,) = caught.value.problems
    return problem


def test_file_is_found_by_its_name(tmp_path: Path) -> None:
    assert find_file(tmp_path) is None
    project = write(tmp_path, "[tool.aiowsgi]\n", "pyproject.toml")
    assert find_file(tmp_path) == project
    own = write(tmp_path, "")
    assert find_file(tmp_path) == own


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user for a moment")
def test_folder_that_the_user_may_not_enter_has_no_file(tmp_path: Path) -> None:
    write(tmp_path, "")
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        assert find_file(tmp_path) is None
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[tool.other]\n", "not TOML at all"])
def test_project_file_that_does_not_speak_of_this_server_is_none_of_its_business(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, "pyproject.toml")
    assert find_file(tmp_path) is None


def test_values_have_the_line_that_says_them(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """# threads = 1
threads = 4
bind = [
    ":1",  # the first
    "unix:sock",
]
'keep-alive' = "5s"
  "queue_size"  =  7
""",
    )
    assert read(path) == (
        [
            Given("threads", 4, "aiowsgi.toml:2", "threads"),
            Given("bind", [":1", "unix:sock"], "aiowsgi.toml:3", "bind"),
            Given("keep_alive", "5s", "aiowsgi.toml:7", "keep-alive"),
            Given("queue_size", 7, "aiowsgi.toml:8", "queue_size"),
        ],
        [],
    )


def test_line_inside_of_a_text_is_not_taken_for_a_key(tmp_path: Path) -> None:
    path = write(tmp_path, 'root_path = """\nthreads = 1\n"""\nthreads = 2\n')
    assert [given.origin for given in read(path)[0]] == ["aiowsgi.toml:1", "aiowsgi.toml:4"]


def test_project_file_is_read_in_its_table_alone(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "threads = 1\n[tool.aiowsgi.x]\n[project]\nthreads = 2\n[tool.aiowsgi]\nthreads = 3\n[tool.b]\nthreads = 4\n",
        "pyproject.toml",
    )
    given, problems = read(path)
    assert given == [Given("threads", 3, "pyproject.toml:6", "threads")]
    assert problems == ["pyproject.toml: x: no such option"]


@pytest.mark.parametrize("text", ["tool = 1\n", "[tool]\naiowsgi = 1\n"])
def test_project_file_without_a_table_says_nothing_or_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text, "pyproject.toml")
    if "[" in text:
        assert failure(path) == "pyproject.toml: tool.aiowsgi must be a table"
    else:
        assert read(path) == ([], [])


def test_alias_and_hyphens_are_known(tmp_path: Path) -> None:
    path = write(tmp_path, "timeout-keep-alive = 5\nunix_socket = 'x'\n")
    assert [(given.name, given.key) for given in read(path)[0]] == [
        ("keep_alive", "timeout-keep-alive"),
        ("uds", "unix_socket"),
    ]


def test_unknown_keys_are_answered_with_what_was_meant_or_what_to_use(tmp_path: Path) -> None:
    path = write(
        tmp_path, "thraeds = 4\nworker_class = 'gthread'\nzzz = 1\n[queue_size_]\na = 1\nlimit_concurrency = 5\n"
    )
    given, problems = read(path)
    assert given == []
    assert problems == [
        "aiowsgi.toml:1: thraeds: no such option; did you mean 'threads'?",
        "aiowsgi.toml:2: worker_class: leave it out, there is one kind of worker: "
        "an event loop with a pool of threads (threads)",
        "aiowsgi.toml:3: zzz: no such option",
        "aiowsgi.toml:4: queue_size_: no such option; did you mean 'queue_size'?",
    ]


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.toml") == "none.toml: cannot be read: No such file or directory"
    assert failure(tmp_path).endswith("cannot be read: Is a directory")


def test_file_that_is_not_toml_is_told_with_the_place(tmp_path: Path) -> None:
    problem = failure(write(tmp_path, "threads = 4\nbind = [\n"))
    assert problem.startswith("aiowsgi.toml: is not TOML: ")
    assert "line" in problem or "end of document" in problem


def test_python_file_is_answered_with_the_command_that_translates_it(tmp_path: Path) -> None:
    problem = failure(write(tmp_path, "import os\n", "gunicorn.conf.py"))
    assert "aiowsgi migrate" in problem


def test_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "aiowsgi.toml"
    path.write_bytes(b"\xff")
    assert failure(path) == "aiowsgi.toml: is not UTF-8 text"
    path.write_bytes(b"#" * MOST_SIZE)
    assert read(path) == ([], [])
    path.write_bytes(b"#" * (MOST_SIZE + 1))
    assert failure(path) == "aiowsgi.toml: is larger than any configuration file"


@given(st.text(max_size=200))
def test_any_text_is_values_or_problems(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    problems: list[str] = []
    try:
        _, problems = read(path)
    except ConfigError as error:
        problems = list(error.problems)
    assert all(problem.startswith("any.toml") for problem in problems)
