"""Table Access Protocol (IVOA TAP 1.1), synchronous (`service.api.vo.uws`: asynchronous): ADQL on the documented tables, for TOPCAT, Aladin and pyvo."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any
from xml.sax.saxutils import escape, quoteattr

import psycopg
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from apdb import ApdbError
from apdb.database import first_line
from apdb.errors import BadQuery, DatabaseUnavailable
from service.api.answers import STREAM_TIMEOUT_S
from service.api.documentation.described import PROBLEM_KIND, form_of, parameters_of
from service.api.resources import Shared
from service.media import ROWS, VOTABLE, XML, kinds

if TYPE_CHECKING:
    from apdb.queries import Query

__all__ = ["QUERY", "Given", "asked", "refusal", "tap"]

tap = APIRouter(prefix="/v1/tap", tags=["reads"])
DEFAULT_ROWS = 10_000
_NAMES = (
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:vosi="http://www.ivoa.net/xml/VOSICapabilities/v1.0" '
    'xmlns:vr="http://www.ivoa.net/xml/VOResource/v1.0" xmlns:vs="http://www.ivoa.net/xml/VODataService/v1.1" '
    'xmlns:tr="http://www.ivoa.net/xml/TAPRegExt/v1.0"'
)
_FORMATS = {"votable": "votable", "application/x-votable+xml": "votable", "text/xml": "votable", "csv": "csv", "text/csv": "csv", "parquet": "parquet",
            "application/vnd.apache.parquet": "parquet", "json": "json", "application/json": "json"}  # fmt: skip


QUERY: dict[str, dict[str, Any]] = {
    "QUERY": {"type": "string", "required": True, "description": "ADQL", "example": "SELECT TOP 3 diaObjectId FROM dia_object_latest"},
    "LANG": {"type": "string", "enum": ["ADQL", "ADQL-2.0"], "description": "language of QUERY; ADQL by default"},
    "MAXREC": {"type": "integer", "minimum": 0, "description": "rows at most, 10000 by default, a million at most; 0 describes the columns"},
    "RESPONSEFORMAT": {"type": "string", "enum": list(_FORMATS), "description": "votable by default"},
}  # fmt: skip
_ANSWERS = ROWS | kinds(VOTABLE, PROBLEM_KIND, status=400, words="A query that cannot be answered: the table says why")


async def _parameters(request: Request) -> dict[str, str]:
    """Parameters by upper-case name, of the address and of a form; a later one of the same name takes the place of another."""
    given = dict(request.query_params)
    if request.method == "POST":
        given |= {k: v for k, v in (await request.form()).items() if isinstance(v, str)}
    return {k.upper(): v for k, v in given.items()}


Given = Annotated[dict[str, str], Depends(_parameters)]


@tap.get("/sync", response_class=Response, responses=_ANSWERS, openapi_extra=parameters_of(**QUERY))
@tap.post("/sync", response_class=Response, responses=_ANSWERS, openapi_extra=form_of(**QUERY))
def sync(shared: Shared, given: Given) -> Response:
    """Answer an ADQL query: QUERY, LANG=ADQL, MAXREC, RESPONSEFORMAT (votable, csv, parquet, json)."""
    from service.api import formats

    try:
        query, kind = asked(given)
        return shared.answers.give(query, kind)
    except (
        psycopg.DataError,
        psycopg.ProgrammingError,
    ) as error:  # a text compared with a number, a column that is in no group
        text = str(error).splitlines()[0]
        return Response(formats.error_votable(text), 400, media_type=formats.MEDIA_TYPES["votable"])
    except (ApdbError, DatabaseUnavailable) as error:
        text, status = refusal(error, STREAM_TIMEOUT_S)
        return Response(formats.error_votable(text), status, media_type=formats.MEDIA_TYPES["votable"])


def refusal(error: Exception, limit_s: int) -> tuple[str, int]:
    """Return why a query got no answer, without where the database is, and the status that says so."""
    if isinstance(error, psycopg.errors.QueryCanceled) or isinstance(error.__cause__, psycopg.errors.QueryCanceled):
        return f"the query took longer than {limit_s} s: ask for less, or ask /v1/tap/async, which has more time", 400
    if isinstance(error, DatabaseUnavailable):
        return "the database does not answer now: try again", 503
    return first_line(error), 400


def asked(given: dict[str, str]) -> tuple["Query", str]:
    """Return the query that parameters ask, and the format of its answer.

    Raises
    ------
    BadQuery
        They make no sense.
    """
    from apdb.adql import adql_query

    if given.get("LANG", "ADQL").partition("-")[0].upper() != "ADQL" or "QUERY" not in given:
        raise BadQuery("TAP wants LANG=ADQL and QUERY")
    kind = _FORMATS.get(given.get("RESPONSEFORMAT", given.get("FORMAT", "votable")).partition(";")[0].strip().lower())
    if kind is None:
        raise BadQuery(f"RESPONSEFORMAT is one of {', '.join(_FORMATS)}")
    rows = given.get("MAXREC", str(DEFAULT_ROWS))
    if not (rows.isascii() and rows.isdigit()):
        raise BadQuery(f"MAXREC is a number of rows, not {rows[:20]!r}")
    return adql_query(given["QUERY"], int(rows.lstrip("0")[:9] or 0)), kind


@tap.get("/availability", response_class=Response, responses=kinds(XML))
def availability() -> Response:
    """Say that the service answers (VOSI)."""
    text = '<vosi:availability xmlns:vosi="http://www.ivoa.net/xml/VOSIAvailability/v1.0"><vosi:available>true</vosi:available></vosi:availability>'
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n', media_type=XML)


@tap.get("/capabilities", response_class=Response, responses=kinds(XML))
def capabilities(request: Request) -> Response:
    """Say what is understood (VOSI, TAPRegExt)."""
    base = f"{str(request.base_url).rstrip('/')}/v1/tap"
    functions = "".join(f"<feature><form>{f}</form></feature>" for f in ("CIRCLE", "CONTAINS", "DISTANCE", "POINT"))
    access = (
        '<capability standardID="ivo://ivoa.net/std/TAP" xsi:type="tr:TableAccess"><interface xsi:type="vs:ParamHTTP" role="std" version="1.1">'
        f'<accessURL use="base">{escape(base)}</accessURL></interface><language><name>ADQL</name><version ivo-id="ivo://ivoa.net/std/ADQL#v2.0">2.0'
        f'</version><description>SELECT on one table</description><languageFeatures type="ivo://ivoa.net/std/TAPRegExt#features-adqlgeo">{functions}'
        '</languageFeatures></language><outputFormat><mime>application/x-votable+xml</mime><alias>votable</alias></outputFormat><outputFormat>'
        f'<mime>text/csv</mime><alias>csv</alias></outputFormat><outputLimit><default unit="row">{DEFAULT_ROWS}</default></outputLimit></capability>'
    )  # fmt: skip
    others = "".join(
        f'<capability standardID="ivo://ivoa.net/std/VOSI#{name}"><interface xsi:type="vs:ParamHTTP" role="std"><accessURL use="full">'
        f"{escape(base)}/{name}</accessURL></interface></capability>"
        for name in ("availability", "capabilities", "tables")
    )
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<vosi:capabilities {_NAMES}>{access}{others}</vosi:capabilities>\n'
    return Response(text, media_type=XML)


@tap.get("/tables", response_class=Response, responses=kinds(XML))
def tables() -> Response:
    """Describe the tables and their columns (VOSI)."""
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<vosi:tableset {_NAMES.replace("VOSICapabilities", "VOSITables")}><schema><name>alertprod</name>'
    return Response(f"{head}{''.join(_described())}</schema></vosi:tableset>\n", media_type=XML)


def _described() -> Iterator[str]:
    from apdb.adql import ADQL_TABLES
    from service.api.formats import vo_type

    for name, table in ADQL_TABLES.items():
        yield f"<table><name>{name}</name><description>{escape(table.description)}</description>"
        for column in table.columns:
            kind, size = vo_type(column)
            words = f"<description>{escape(column.description)}</description>" if column.description else ""
            unit = f"<unit>{escape(column.unit)}</unit>" if column.unit else ""
            extra = f" arraysize={quoteattr(size)}" if size else ""
            yield f'<column><name>{escape(column.name)}</name>{words}{unit}<dataType xsi:type="vs:VOTableType"{extra}>{kind}</dataType></column>'
        yield "</table>"
