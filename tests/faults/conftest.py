"""The report of the faults: what was done, how it ended, how long it took; written where ``ALERTPROD_FAULT_REPORT`` says."""

import os
from pathlib import Path

TARGET = os.environ.get("ALERTPROD_FAULT_REPORT")
_HEAD = """# Faults

What the service was made to suffer, and how that ended. `make faults` runs all of it and writes this page; the test suite runs a
short form of each (fewer kills, files and messages). A row is a test of `tests/faults/`.

| test | ended | seconds | numbers |
|---|---|---|---|
"""


def pytest_terminal_summary(terminalreporter):
    """Write the report, where one is wanted."""
    if TARGET is None:
        return
    rows = []
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and "tests/faults/" in report.nodeid:
                name = report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " ").replace("|", "/")
                numbers = "; ".join(f"{key}: {value}" for key, value in report.user_properties)
                rows.append((report.nodeid, f"| {name} | {outcome} | {report.duration:.1f} | {numbers} |"))
    Path(TARGET).write_text(_HEAD + "".join(f"{row}\n" for _, row in sorted(rows)), encoding="utf-8")
