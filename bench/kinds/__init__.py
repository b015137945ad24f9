"""The kinds of measurement: one module each, with a function ``measure`` from a :class:`~bench.kinds.job.Job`."""
