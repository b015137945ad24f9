"""Measuring WSGI servers side by side, honestly, in one command: ``python -m bench run``.

A command of the checkout, not a part of the package. It measures servers from outside, as processes on loopback; only
``micro`` and ``simulations`` import ``aiowsgi``, whose parts they measure. ``bench/README.md`` explains the method and
how to read a report.
"""

from __future__ import annotations
