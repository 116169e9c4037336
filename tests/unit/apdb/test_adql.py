"""apdb/adql: what is understood becomes one SELECT; what is not is refused with its place, whatever it tries."""

import pytest

from apdb.adql import adql_query
from apdb.errors import BadQuery


def text_of(asked, rows=100):
    return adql_query(asked, rows).statement.as_string(None)


@pytest.mark.parametrize(("asked", "where"), [
    ("psfFlux > 3 AND NOT (band = 'g' OR snr < -1.5e2)",
     """(("t"."psfFlux" > 3) AND (NOT (("t"."band" = 'g') OR ("t"."snr" < (- 150.0)))))"""),
    ("(psfFlux + 1) * 2 >= ABS(snr) -- of both signs", '((("t"."psfFlux" + 1) * 2) >= abs("t"."snr"))'),
    ("band NOT IN ('it''s', 'r') AND reliability IS NOT NULL",
     """(("t"."band" NOT IN ('it''s', 'r')) AND ("t"."reliability" IS NOT NULL))"""),
    ('s."psfFlux" BETWEEN 1 AND 2 OR DIA_SOURCE.RA < 1', '(("t"."psfFlux" BETWEEN 1 AND 2) OR ("t"."ra" < 1))'),
    ("(((ra))) = 1", '("t"."ra" = 1)'), (f"{'(' * 29}ra{')' * 29} + 1 = 2", '(("t"."ra" + 1) = 2)'), (f"{'NOT ' * 999}ra = 1", '(NOT ("t"."ra" = 1))'),
    ("ra IN ((1), -2) AND (((ra) = 1 OR (dec) = 2))", '(("t"."ra" IN (1, (- 2))) AND (("t"."ra" = 1) OR ("t"."dec" = 2)))'),
])  # fmt: skip
def test_conditions_become_sql(asked, where):
    assert (
        text_of(f"SELECT ra FROM dia_source AS s WHERE {asked}")
        == f'SELECT "t"."ra" AS "ra" FROM "DiaSource" t WHERE {where} LIMIT 100'
    )


@pytest.mark.parametrize("asked", [
    "", "SELECT", "SELECT ra", "SELECT ra FROM", "SELECT ra FROM pg_shadow", 'SELECT ra FROM "pg_catalog.pg_user"', "SELECT ra FROM dia_source; DELETE FROM x",
    "SELECT pg_sleep(9) FROM dia_source", "SELECT ra FROM dia_source WHERE pg_sleep(9) = 1", "SELECT ra FROM dia_source, light_curve",
    "SELECT ra FROM dia_source WHERE ra IN (SELECT ra FROM dia_source)", "SELECT ra FROM dia_source UNION SELECT ra FROM dia_source",
    "SELECT ra FROM dia_source WHERE ra = $$x$$", "SELECT ra FROM dia_source WHERE ra::text = 'x'", "UPDATE dia_source SET ra = 1", "SELECT ra, ra FROM dia_source",
    "SELECT nothing FROM dia_source", "SELECT ra FROM dia_source WHERE", "SELECT ra FROM dia_source WHERE ra", "SELECT ra FROM dia_source LIMIT 5 OFFSET 3",
    "SELECT ra FROM dia_source WHERE CONTAINS(POINT(ra, dec), CIRCLE(400, 0, 1)) = 1", "SELECT TOP many ra FROM dia_source", "SELECT ra FROM dia_source WHERE ABS(1, 2) = 1",
    "SELECT ra FROM dia_source WHERE " + "(" * 500 + "ra = 1" + ")" * 500, "SELECT ra FROM dia_source WHERE ra = " + "-" * 900, "SELECT " + "ra " * 9000,
])  # fmt: skip
def test_what_is_not_understood_is_refused(asked):
    with pytest.raises(BadQuery, match=r"ADQL|longer"):
        adql_query(asked)


def test_rows_are_limited_and_names_are_those_of_the_schema():
    assert text_of("SELECT TOP 5 * FROM night_summary", 9).endswith("LIMIT 5")
    assert text_of("SELECT TOP 50 * FROM night_summary", 9).endswith("LIMIT 9")
    query = adql_query('select RA as "my ra", count(*) from dia_source group by ra order by count desc')
    assert [c.name for c in query.columns] == ["my ra", "count"]
    assert query.columns[0].unit == "deg"
    assert 'ORDER BY "count" DESC' in query.statement.as_string(None)


def test_forms_of_other_clients_ask_the_same():
    start, circle = "SELECT ra FROM dia_source WHERE", "CONTAINS(POINT(ra, dec), CIRCLE(40, -20, 0.1))"
    usual = text_of(f"{start} {circle} = 1")
    for other in (
        f"1={circle}",
        f"(1 = {circle})",
        circle.replace("40, -20", "POINT(40, -20)") + " = 1;",
        circle.replace("40, -20", "POINT('ICRS', 40, -20)") + "=1 ; ",
    ):
        assert text_of(f"{start} {other}") == usual
    assert text_of(f"{start} 0 = {circle}") == text_of(f"{start} {circle} = 0") != usual
    for wrong in (f"{circle} = 5", f"2 = {circle}", f"ra = {'9' * 5000}"):
        with pytest.raises(BadQuery, match="ADQL"):
            adql_query(f"{start} {wrong}")


def test_rows_are_ordered_by_what_as_named():
    asked = 'SELECT psfFlux AS Bright, COUNT(*) AS "n%" FROM dia_source GROUP BY psfFlux ORDER BY bright DESC, "N%"'
    assert 'ORDER BY "Bright" DESC, "n%%" LIMIT' in text_of(asked)
    assert text_of("SELECT TOP 5 ra FROM dia_source", 0).endswith("LIMIT 0")
