"""The reference has all that the code has: commands, settings, HTTP, views, functions, TAP tables, flags."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

from apdb.adql import ADQL_TABLES
from apdb.schema.columns import APDB_TABLES, columns_of
from apdb.schema.view_columns import FUNCTIONS, VIEWS, view_columns
from exposure.header.rules import TimeRule
from exposure.instrument import Instrument
from exposure.mask import PLANES
from service.pages.nights.facts import STEPS
from service.pages.visits.meanings import MEANINGS
from service.pairs.source_columns import FLAG_BITS as TABLE_BITS
from service.settings import NOT_SETTINGS, PREFIX, Settings
from tasks.lacking import FLAG_BITS, FLAG_WORDS
from tools.check_links import raw_markup
from tools.reference import PAGES, http_document, resolved
from tools.reference_commands import ELSEWHERE, commands, options
from tools.reference_instrument import WORDS, keys
from tools.reference_limits import LIMITS, limits_page
from tools.reference_metrics import COUNTS, FIELDS, STEP_WORDS
from tools.reference_settings import EDGES, OTHER_VARIABLES
from tools.reference_tasks import options_of, tasks

ROOT = Path(__file__).parents[2]
ROOMS = ("alertprod", "alerts", "apdb", "association", "calibration", "client", "diffim", "exposure", "forced", "middleware",
         "service", "tasks")  # fmt: skip
TYPES = {
    "bigint": "long", "integer": "int", "smallint": "short", "real": "float", "double precision": "double", "boolean": "boolean",
    "timestamp with time zone": "timestamp", "jsonb": "json",
}  # fmt: skip


def rows_of(text):
    """First cells of the tables of a page, by heading."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").replace("\\", "")
        elif line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(heading, []).append(line.split(" | ")[0].removeprefix("| ").strip())
    return found


@pytest.fixture(scope="module")
def pages():
    return {
        name: PAGES[name]()
        for name in (
            "settings",
            "commands",
            "http",
            "tables",
            "views",
            "flags",
            "tasks",
            "packets",
            "metrics",
            "instrument",
            "limits",
        )
    }


def test_every_argument_and_option_of_every_command_is_there_with_its_meaning(pages):
    rows, count = rows_of(pages["commands"]), 0
    for name, command in commands():
        assert f"## {name}\n" in pages["commands"]
        for words, meaning, _default in options(name, command):
            assert meaning, (name, words)
            assert words in rows[name]
            count += 1
        assert command.help or name in ELSEWHERE
    assert count > 200
    assert "`--noExit`" in rows["alertprod jointcal run"]
    assert {"`--version`", "`--debug`"} <= set(rows["alertprod"])


def test_every_parameter_and_field_of_the_api_is_there_with_its_meaning(pages):
    document, rows, without = http_document(), rows_of(pages["http"]), []
    parts = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method.upper()} {path}"
            named = {p["name"]: p for p in operation.get("parameters", [])}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                named |= resolved(content["schema"], parts).get("properties", {})
            assert {f"`{n}`" for n in named} <= set(rows.get(place, ())), place
            without += [(place, n) for n, p in named.items() if not resolved(p, parts).get("description")]
            assert operation.get("description") or operation.get("summary"), place
    assert without == []


def test_every_setting_is_there_and_what_is_said_of_edges_is_of_settings(pages):
    rows = rows_of(pages["settings"])
    assert rows["Settings"][1:] == [f"`{PREFIX}{n.upper()}`" for n in Settings.model_fields]
    assert set(EDGES) <= set(Settings.model_fields)
    assert {f"{PREFIX}{n}" for n in OTHER_VARIABLES} <= NOT_SETTINGS
    assert all(f.description for f in Settings.model_fields.values())
    known = {f"{PREFIX}{n}" for n in (*OTHER_VARIABLES, *(name.upper() for name in Settings.model_fields))}
    sources = [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    named = {v for p in sources for v in re.findall(rf"{PREFIX}[A-Z_]+[A-Z]", p.read_text(encoding="utf-8"))}
    assert named - known == set()


def test_views_and_functions_are_described_as_the_database_has_them(database, pages):
    with database.session() as connection:
        for view in VIEWS:
            stored = connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() AND "
                "table_name = %s ORDER BY ordinal_position", (view,),
            ).fetchall()  # fmt: skip
            said = view_columns(view)
            assert [c.name for c in said] == [name for name, _ in stored], view
            for column, (name, kind) in zip(said, stored, strict=True):
                text = column.datatype in ("string", "char", "text") and kind not in TYPES
                assert text or TYPES[kind] == column.datatype, (view, name, kind)
                assert column.description, (view, name)
        connection.execute((files("apdb.operate") / "reader_functions.sql").read_text(encoding="utf-8"))
        stored = connection.execute(
            "SELECT proname || '(' || pg_get_function_arguments(oid) || ')', regexp_replace(pg_get_function_result(oid), "
            "'SETOF |\"', '', 'g') FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proretset"
        ).fetchall()
    assert dict(stored) == {signature: gives for signature, (gives, _, _) in FUNCTIONS.items()}
    rows = rows_of(pages["views"])
    for view in set(VIEWS) - {"dia_object_latest"}:
        assert rows[view][1:] == [f"`{c.name}`" for c in view_columns(view)]
    for signature, (_gives, _words, arguments) in FUNCTIONS.items():
        assert f"Function `{signature}`" in pages["views"]
        assert all(f"`{a}`" in rows[signature.partition("(")[0]] for a in arguments)


def test_every_table_of_tap_is_there_and_has_described_columns(pages):
    rows = rows_of(pages["views"])["TAP tables"]
    assert [re.sub(r"\[(\w+)\].*", r"\1", r) for r in rows[1:]] == list(ADQL_TABLES)
    for name, table in ADQL_TABLES.items():
        assert all(c.description for c in table.columns), name
    published = rows_of(pages["tables"])
    assert all(f"`{c.name}`" in published[t] for t in APDB_TABLES for c in columns_of(t))


def test_every_option_of_every_task_of_the_pipelines_is_there(pages):
    rows = rows_of(pages["tasks"])
    for name, config in tasks():
        assert f"## {name}\n" in pages["tasks"]
        own = set(config._fields) - {"connections", "saveLogOutput"}
        told = [(option, words) for option, words, _default in options_of(config())]
        assert {option.partition(".")[0] for option, _ in told} == own
        assert [f"`{option}`" for option, _ in told] == rows.get(name, [""])[1:]
        assert all(words for _, words in told), name
    assert "`sourceSelector.doFlags`" in rows["JointcalTask"]


def test_every_key_of_an_instrument_file_is_there(pages):
    named = [name for name, _ in keys(Instrument)]
    assert set(WORDS) == set(named)
    rows = rows_of(pages["instrument"])
    assert rows["Instrument files"][1:] == [f"`{name}`" for name in named]
    assert rows["Rules of header cards"][1:] == [f"`{name}`" for name in TimeRule.model_fields]


def test_every_number_of_a_visit_is_there(pages):
    source = (
        (ROOT / "service" / "processing" / "visit.py")
        .read_text(encoding="utf-8")
        .split("def _counts(")[1]
        .split("\ndef ")[0]
    )
    assert re.findall(r'"(\w+)":', source) == list(COUNTS)
    rows = rows_of(pages["metrics"])
    assert rows["Counts"][1:] == [f"`{n}`" for n in COUNTS]
    assert rows["Quality metrics"][1:] == [f"`{n}`" for n in sorted(MEANINGS)]


def test_steps_and_fields_of_a_visit_are_those_that_the_service_tells(pages):
    assert tuple(STEP_WORDS) == STEPS
    source = (ROOT / "service" / "intake" / "submit.py").read_text(encoding="utf-8").partition("def describe(")[2]
    told = re.findall(r'^        "(\w+)": ', source, re.MULTILINE)
    assert told == [name for names in FIELDS for name in names.split(", ")]
    assert len(rows_of(pages["metrics"])["Alarms"]) > 15


def test_limits_are_named_once_and_have_the_values_of_the_code():
    page = limits_page()
    rows = dict(re.findall(r"^\| (.*?) \| (.*?) \|", page, re.MULTILINE))
    assert rows["visits of one `POST /v1/visits/batch`"] == "2 000"
    assert rows["body of a request without an image"] == "1 MiB"
    assert rows["how long a visit waits for a patch of sky that another holds"] == "120 s"
    assert rows["largest such gain"] == "60 e-/count"
    assert rows["schema id in the header of a correction"] == "90100"
    for subject, limits in LIMITS.items():
        assert f"## {subject}\n" in page
        assert len({where for _, where, _, _ in limits}) == len(limits), subject


def test_every_column_field_and_metric_says_what_it_is(pages):
    for name in ("tables", "packets", "metrics"):
        assert [line for line in pages[name].splitlines() if line.startswith("| `") and line.endswith("|  |")] == []


def test_every_bit_is_there(pages):
    rows = rows_of(pages["flags"])
    assert rows["Flags of detections"][1:] == [str(b) for b in TABLE_BITS]
    assert rows["Flags of forced fluxes"][1:] == [str(b) for b in FLAG_BITS.values()]
    assert set(FLAG_WORDS) == set(FLAG_BITS)
    assert all(f"| {1 << b} | {1 << b + 16} | `{n}` |" in pages["flags"] for n, b in FLAG_BITS.items())
    assert rows["Planes of masks"][1:] == [str(b) for b in PLANES.values()]


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ("<p>| <code>/v1/tap</code> | IVOA |</p>", ["|"]),
        ("<p>see [there](there.md)</p>", ["](there.md)"]),
        ("<li>```\nx</li>", ["```"]),
        ("<p>**loud**</p>", ["**loud**"]),
        ("<p>`name</p><pre>a | b ](c) ```</pre><p><code>a | b</code></p>", ["`"]),
        ("<p>2 * 3, a|b</p><td>x</td>", []),
    ],
)
def test_markup_that_was_not_understood_is_found(html, found):
    assert raw_markup(html) == found
