"""Measuring WSGI servers side by side, honestly, in one command: ``python -m bench run``.

A command of the checkout, not a part of the package. It measures servers from outside, as processes on loopback, and
imports none of them; ``bench/README.md`` tells the method and how to read a report.
"""

from __future__ import annotations
