"""The README says what is true."""

from __future__ import annotations

import pathlib
import re

import aiowsgi
from aiowsgi.config import OPTIONS, markdown_table
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


def test_four_line_application_in_readme_runs():
    section = README.split("Four lines in `hello.py`", 1)[1]
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


def anchor(heading: str) -> str:
    """What a heading is called in links, as GitHub and others make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_contents_of_readme_name_every_section_and_each_link_leads_to_one():
    headings = re.findall(r"^(##+) (.+)$", README, re.MULTILINE)
    contents = README.split("\n## ", 1)[0]
    links = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert links <= {anchor(heading) for _, heading in headings}
    assert {anchor(heading) for level, heading in headings if level == "##"} <= set(
        re.findall(r"\]\(#([^)]+)\)", contents)
    )


def test_options_that_readme_names_for_those_of_other_servers_exist():
    section = README.split("\n## Coming from another server\n", 1)[1].split("\n## ", 1)[0]
    known = {item.name for item in OPTIONS}
    typed, _, ours = section.partition("| uWSGI | here |")
    flags = {flag for command in re.findall(r"`aiowsgi [^`]+`", typed) for flag in re.findall(r"--([a-z-]+)", command)}
    assert {flag.replace("-", "_") for flag in flags} <= known
    names = {name for row in ours.splitlines() for name in re.findall(r"`([a-z]+_[a-z_]+)", row)}
    assert names - {"uwsgi_pass", "uwsgi_params", "proxy_pass"} <= known
    assert "request_timeout" in names
