"""The limit of file descriptors."""

from __future__ import annotations

import subprocess
import sys

LOWERED = """
import resource
from aiowsgi.process.descriptors import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
raise_descriptor_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_soft_limit_of_descriptors_is_raised_to_the_hard_one():
    # In a process of its own: a hard limit that was lowered stays lowered.
    done = subprocess.run([sys.executable, "-c", LOWERED], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split() == ["300", "300"]
