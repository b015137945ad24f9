"""What the README says of the access log is what there is."""

from __future__ import annotations

from pathlib import Path

import aiowsgi
from aiowsgi.server.access_format import ATOMS

README = (Path(aiowsgi.__file__).parents[1] / "README.md").read_text()


def test_every_name_of_the_access_log_is_in_the_readme() -> None:
    for name, (_, _, words) in ATOMS.items():
        assert f"| `%({name})s` | {words} |\n" in README
