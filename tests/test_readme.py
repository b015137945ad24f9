"""The README says what is true."""

from __future__ import annotations

import pathlib
import re

import aiowsgi
from aiowsgi.config import markdown_table
from aiowsgi.configuration.settings import Sources
from tests.conftest import running_server

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_option_table_in_readme_is_that_of_the_configuration():
    between = re.search(r"<!-- options: .*? -->\n(.*?)<!-- end of options -->", README, re.DOTALL)
    assert between is not None
    assert between[1].strip() == markdown_table().strip()


def test_configuration_files_in_readme_are_valid(tmp_path: pathlib.Path):
    blocks = re.findall(r"^```toml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        (tmp_path / "aiowsgi.toml").write_text(block)
        assert Sources(folder=str(tmp_path), environ={}).read().config.app


def test_public_names_in_readme_are_those_of_the_package():
    section = README.split("## Public names", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"`(\w+)`", section)) - {"aiowsgi"} == set(aiowsgi.__all__)


def test_five_line_application_in_readme_runs():
    section = README.split("Five lines in `hello.py`", 1)[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1], names)
    with running_server(names["application"]) as server, server.connect() as client:
        assert client.get("/there").content == b"Hello from /there\n"


def test_ci_runs_the_test_command_of_the_readme():
    commands = [line for line in README.splitlines() if "-m pytest" in line]
    assert len(commands) == 1
    assert "grep -m1 -F -- '-m pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_files_named_in_readme_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
