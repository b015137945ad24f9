"""Reports: ``report.md`` and a self-contained ``report.html`` from one JSON file of results."""
