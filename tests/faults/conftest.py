"""The images of a survey, and the report of the faults: how each test ended, in the page that ``ALERTPROD_FAULT_REPORT`` names."""

import os
from pathlib import Path

import pytest

from tests.support.shared_folder import shared_folder

TARGET = os.environ.get("ALERTPROD_FAULT_REPORT")
HEAD = "## The long form, as it ended last"
_COLUMNS = "| test | ended | seconds | numbers |\n|---|---|---|---|\n"


@pytest.fixture(scope="session")
def survey(tmp_path_factory):
    """The images of a small survey and its template."""
    from tests.support.survey import make_survey  # loads all of the processing

    return shared_folder(tmp_path_factory, "survey", make_survey)


def pytest_terminal_summary(terminalreporter):
    """Write the report, where one is wanted; rows of tests that did not run stay as they were."""
    if TARGET is None:
        return
    before, _, table = Path(TARGET).read_text(encoding="utf-8").partition(HEAD)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| `")}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if report.when == "call" and "tests/faults/" in report.nodeid:
                module, _, name = report.nodeid.removeprefix("tests/faults/").partition("::")
                test = f"`{module.removesuffix('.py').removeprefix('test_')}: {name.removeprefix('test_').replace('_', ' ').replace('|', '/')}`"
                numbers = "; ".join(f"{key}: {value}" for key, value in report.user_properties)
                rows[test] = f"| {test} | {outcome} | {report.duration:.0f} | {numbers} |"
    text = "".join(f"{rows[test]}\n" for test in sorted(rows))
    Path(TARGET).write_text(f"{before.rstrip()}\n\n{HEAD}\n\n{_COLUMNS}{text}", encoding="utf-8")
