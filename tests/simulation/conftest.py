"""Profiles of the simulations.

The usual one takes some seconds and is the same every time. For a long run, which is another one every time::

    pytest tests/simulation --hypothesis-profile=long --timeout=0 -o faulthandler_timeout=0
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "long",
    max_examples=2000,
    stateful_step_count=200,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
