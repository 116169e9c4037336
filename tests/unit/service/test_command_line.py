"""The command line takes what people type."""

import pytest
from typer.testing import CliRunner

from service.commands.main import app


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "1", "2", "10.0", "-20.5"],
        ["orbits", "near", "10.0", "-20.5", "--mjd", "60000", "--orbits", "missing.dat"],
    ],
)
def test_negative_declinations_are_no_options(words, monkeypatch):
    monkeypatch.setenv("ALERTPROD_DATABASE_URI", "postgresql://nobody@127.0.0.1:9/none")
    result = CliRunner().invoke(app, words)
    assert "No such option" not in result.output
    assert result.exit_code == 1  # the database, and the file, are not there
    assert getattr(result.exception, "code", "") in ("database_unavailable", "orbits")
    wrong = CliRunner().invoke(app, [*words, "--no-such-option"])
    assert wrong.exit_code == 2
