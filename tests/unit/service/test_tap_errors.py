"""What the synchronous service of the Virtual Observatory answers at its limits."""

import pytest

from service.api.answers import Answers
from service.api.vo import tap
from tests.support.asking import asker


@pytest.mark.parametrize(("maxrec", "status"), [("0", 200), ("9" * 5000, 200), ("\u00b2", 400), ("-1", 400), ("", 400)])
def test_any_number_of_rows_is_answered_or_refused(database, tmp_path, maxrec, status):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)
    given = {"QUERY": "SELECT ra FROM dia_source", "MAXREC": maxrec, "LANG": "ADQL", "RESPONSEFORMAT": "text/xml"}
    answer = ask("GET", "/v1/tap/sync", params=given)
    assert answer.status_code == status
    assert "VOTABLE" in answer.text
    if status == 200:
        assert '<FIELD name="ra"' in answer.text
        assert ('value="OVERFLOW"' in answer.text) == (maxrec == "0")


def test_a_query_that_takes_too_long_is_told_so_without_where_the_database_is(database, tmp_path, monkeypatch):
    ask, _ = asker(tmp_path / "uploads", database_uri=database.uri)

    def canceled(self, query):
        with self._database.session() as connection:
            connection.execute("SET statement_timeout = '20ms'")
            connection.execute("SELECT pg_sleep(5)")
        yield

    monkeypatch.setattr(Answers, "frames", canceled)
    answer = ask("GET", "/v1/tap/sync", params={"QUERY": "SELECT ra FROM dia_source", "LANG": "ADQL"})
    assert answer.status_code == 400, answer.text
    assert f"took longer than {tap.STREAM_TIMEOUT_S} s" in answer.text
    assert not {"127.0.0.1", "localhost", database.uri.rpartition("/")[2]} & set(
        answer.text.replace("/", " ").replace(":", " ").split()
    )
