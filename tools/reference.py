"""The reference of the documentation, written from the code: settings, commands, HTTP, tables, alerts, metrics, tasks."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.markdown import code, table
from tools.reference_commands import commands_page
from tools.reference_flags import flags_page
from tools.reference_instrument import instrument_page
from tools.reference_limits import limits_page
from tools.reference_metrics import metrics_page
from tools.reference_settings import settings_page
from tools.reference_sql import views_page
from tools.reference_tasks import tasks_page

__all__ = ["PAGES", "http_document", "resolved", "write_reference"]

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def http_document() -> dict[str, Any]:
    """Return the OpenAPI document of the API."""
    from service.api.app import create_app
    from service.api.documentation.described import describe_access
    from service.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_uri="postgresql://nobody@127.0.0.1:1/none", upload_dir=Path(folder))
        return describe_access(create_app(settings))


def http_page() -> str:
    """Every path of the API, the token that it asks for, its parameters."""
    from service.api.documentation.described import PROBLEMS

    document = http_document()
    parts = [
        "# HTTP API\n\n`GET /openapi.json` of a running service is the same for programs; `GET /docs` shows it as a page. What has no default "
        "need not be given, but what is marked as needed and the parameters of a path.\n\n"
        "What goes wrong is answered with `application/problem+json` (RFC 9457): `type`, `title`, `status`, `code` (one of the "
        "[error codes](../../errors/README.md)), `detail` (what was expected, what came, what to do) and `help` (its page). 429 and 503 have the header "
        "`Retry-After`.\n",
        table(("status", "means"), ((s, a["description"]) for s, a in PROBLEMS.items())),
        f"409 is {_conflicts()}; 404 is `not_found`, 429 `quota_exceeded` or `too_many_requests`. Other errors of a request are 422, or 503 where "
        "they may pass.\n",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = operation.get("x-scopes")
            asks = f"Token with the scope {' or '.join(code(s) for s in scopes)}." if scopes else "No token."
            words = operation.get("description") or operation.get("summary", "")
            parts.append(f"## {method.upper()} {path}\n\n{' '.join(words.split())} {asks}\n".replace("{", r"\{"))
            parts.append(_parameters(operation, document["components"]["schemas"]))
            parts.append(_answers(operation, PROBLEMS))
    return "\n".join(p for p in parts if p)


def _conflicts() -> str:
    """Name the codes of conflicts: that of the class, and those of the classes below it."""
    from apdb.errors import VisitConflict

    below = [VisitConflict]
    for kind in below:
        below += kind.__subclasses__()
    return ", ".join(code(c) for c in sorted({kind.code for kind in below}))


def _is_general(status: str, answer: dict[str, Any], failures: Mapping[Any, dict[str, Any]]) -> bool:
    """Whether an answer is a failure that means here what it means of every path."""
    general = failures.get(int(status)) if status.isdigit() else None
    return general is not None and answer.get("description") == general["description"]


def _answers(operation: dict[str, Any], failures: Mapping[Any, dict[str, Any]]) -> str:
    """What comes where nothing goes wrong, or something of this path alone: status, meaning, kinds of content."""
    own = {s: a for s, a in operation.get("responses", {}).items() if not _is_general(s, a, failures)}
    words = [f"{s} {_meaning(a)}{_kinds(a.get('content', {}))}" for s, a in own.items()]
    return f"Answers: {'; '.join(words)}.\n" if words else ""


def _meaning(answer: dict[str, Any]) -> str:
    words = str(answer.get("description", ""))
    return "done" if words == "Successful Response" else words[:1].lower() + words[1:]  # what FastAPI says of its own


def _kinds(content: dict[str, Any]) -> str:
    return f" ({', '.join(map(code, content))})" if content else ""


def _parameters(operation: dict[str, Any], parts: dict[str, Any]) -> str:
    """Parameters and fields of bodies with type, limits, meaning and default."""
    rows = [
        (code(p["name"]), p["in"], _kind(p.get("schema", {}), parts), _needed(p), code(p["schema"].get("default", "")))
        for p in operation.get("parameters", [])
    ]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        body = resolved(content.get("schema", {}), parts)
        rows.append(("body", media, _kind(body, parts), body.get("description", ""), ""))
        rows += [
            (code(name), "body", _kind(field, parts), _needed(field, name in body.get("required", ())), code(resolved(field, parts).get("default", "")))
            for name, field in body.get("properties", {}).items()
        ]  # fmt: skip
    return table(("parameter", "in", "type", "what it is", "default"), rows) if rows else ""


def _needed(item: dict[str, Any], needed: bool | None = None) -> str:
    words = str(item.get("description", ""))
    given = item.get("required") is True and item.get("in") != "path" if needed is None else needed
    return f"{words} (needed)" if given else words


def resolved(schema: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with what it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**parts.get(name, {}), **schema} if name else schema


def _kind(schema: dict[str, Any], parts: dict[str, Any]) -> str:
    """Type of a value, its choices or its limits."""
    options = [resolved(o, parts) for o in schema.get("anyOf", [schema])]
    options = [o for o in options if o.get("type") != "null"]
    choices = [str(c) for o in (*options, schema) for c in ([o["const"]] if "const" in o else o.get("enum", ()))]
    if choices:
        return " or ".join(dict.fromkeys(choices))
    named = " or ".join(
        f"{_kind(o['items'], parts)}, several" if "items" in o else str(o.get("type", "")) for o in options
    )
    limits = {k: v for o in (*options, schema) for k, v in o.items()}
    least, most = limits.get("minimum", limits.get("exclusiveMinimum")), limits.get("maximum")
    within = f", {_number(least)} to {_number(most)}" if least is not None and most is not None else ""
    return f"{named}{within}"


def _number(value: float) -> str:
    return f"{value:.15g}" if abs(value) < 1e15 else f"{value:.1e}"


def tables_page() -> str:
    """Every column of the published tables."""
    from apdb.schema.columns import APDB_TABLES, SCHEMA_VERSION, published_schema

    published = published_schema()
    parts = [
        f"# Tables\n\nThe tables of the APDB, schema {SCHEMA_VERSION} of `lsst-sdm-schemas`; [views and TAP tables](views.md), "
        "[flags](flags.md) and [database](../../database.md) have what lies beside them. A column without a unit is an id, a number, a share, a flag or text; "
        "fluxes are in nJy ([conventions](../../conventions.md)).\n"
    ]
    for name in APDB_TABLES:
        keys = published.keys.get(name, ())
        parts.append(f"## {name}\n\nPrimary key: {', '.join(code(k) for k in keys) or 'none'}.\n")
        rows = (
            (code(c.name), c.datatype, c.unit, "yes" if c.nullable else "no", c.description)
            for c in published.columns(name)
        )
        parts.append(table(("column", "type", "unit", "null", "what it is"), rows))
    parts.append(
        "## DiaForcedSourceFlags\n\nA side table with one row for each DiaForcedSource: `diaObjectId`, `visit`, `detector` (its key) and `flags`, a sum of "
        "[bits](flags.md#flags-of-forced-fluxes): the low 16 of `psfFlux`, the high 16 of `scienceFlux`.\n"
    )
    return "\n".join(parts)


# fields of which the schema says nothing
_PACKET_WORDS = {
    "diaSource": "the detection that triggered the alert",
    "prvDiaSources": "detections of its object in the last 360 days, without the trigger; null where there is none",
    "prvDiaForcedSources": "forced photometry of its object in the last 360 days, this visit's included; null where there is none",
    "diaObject": "its object as it is after the visit; null for a solar-system body",
    "ssSource": "the detection as one of a known solar-system body; null for others",
    "mpc_orbits": "the orbit of the body, where the ephemeris table has columns `MPCORB_*`",
    "cutoutDifference": "[cutout](../../alerts.md#the-message) of the difference: a FITS file with image (nJy), UNCERT, MASK and PSFIMAGE; null where it was trimmed",
    "cutoutScience": "cutout of the image, the same pixels and planes",
    "cutoutTemplate": "cutout of the template, the same pixels and planes",
}


def packets_page() -> str:
    """Every field of an alert packet and of a correction."""
    from alertprod_client.corrections import CORRECTION_SCHEMA
    from alertprod_client.schemas import SCHEMA_VERSION, schema

    version = ".".join(map(str, SCHEMA_VERSION))
    parts = [
        f"# Alert packets\n\nSchema {version}; [alerts](../../alerts.md) says how they are sent, [client](../../client.md) how they are read.\n"
    ]
    for record in _records(schema()):
        name = record["name"].rpartition(".")[2]
        rows = (
            (code(f["name"]), _avro(f["type"]), f.get("doc") or _PACKET_WORDS.get(f["name"])) for f in record["fields"]
        )
        parts += [f"## {name}\n", table(("field", "type", "what it is"), rows)]
    rows = ((code(f["name"]), _avro(f["type"]), f.get("doc", "")) for f in CORRECTION_SCHEMA["fields"])
    parts += [
        "## correction\n\nSee [corrections](../../corrections.md).\n",
        table(("field", "type", "what it is"), rows),
    ]
    return "\n".join(parts)


def _records(item: Any) -> Iterator[dict[str, Any]]:
    if isinstance(item, list):
        for inner in item:
            yield from _records(inner)
    elif isinstance(item, dict):
        if item.get("type") == "record":
            yield item
            for field in item["fields"]:
                yield from _records(field["type"])
        elif isinstance(item.get("items"), dict | list):
            yield from _records(item["items"])


def _avro(kind: Any) -> str:
    if isinstance(kind, list):
        return " or ".join(_avro(k) for k in kind)
    if isinstance(kind, dict):
        kind = f"array of {_avro(kind['items'])}" if kind["type"] == "array" else kind.get("name", kind["type"])
    return str(kind).rpartition(".")[2]


def chart_page() -> str:
    """Every value of the Helm chart, with its default and what is said of it."""
    values = (_DOCS.parent / "helm" / "alertprod" / "values.yaml").read_text(encoding="utf-8")
    return (
        "# Values of the Helm chart\n\n`helm/alertprod/values.yaml`, with the defaults; [deployment](../../deployment.md#kubernetes) says how they go "
        f"together. `values.schema.json` refuses names that are not here.\n\n```yaml\n{values}```\n"
    )


def others_page() -> str:
    """Pages that no table of contents names: so that none is lost, and a new one breaks no build."""
    named = {_DOCS / "index.md"}
    pages = [p for p in sorted(_DOCS.rglob("*.md")) if not {"_build", "generated"} & set(p.parts)]
    for page in pages:
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            entries = [line for line in block.splitlines() if line and not line.startswith(":")]
            named |= {file.resolve() for e in entries for file in page.parent.glob(f"{e}.md")}
    left = [p for p in pages if p.resolve() not in named]
    if not left:
        return "# Other pages\n\nThere are none.\n"
    entries = "\n".join(f"../../{p.relative_to(_DOCS).with_suffix('').as_posix()}" for p in left)
    return f"# Other pages\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page, "instrument": instrument_page, "commands": commands_page, "http": http_page, "tables": tables_page, "views": views_page,
    "flags": flags_page, "limits": limits_page, "packets": packets_page, "metrics": metrics_page, "chart": chart_page, "tasks": tasks_page, "others": others_page,
}  # fmt: skip


def write_reference(folder: Path) -> None:
    """Write all pages; a page that stays as it is keeps its time, so that only what changed is built again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / f"{name}.md", page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
