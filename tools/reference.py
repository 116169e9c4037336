"""The reference of the documentation, written from the code: settings, commands, HTTP, tables, alerts, metrics, tasks."""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["PAGES", "write_reference"]

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def _cell(text: object) -> str:
    return " ".join(str(text if text is not None else "").split()).replace("|", r"\|").replace("<", "&lt;")


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(head)
    lines = [heads, ["---"] * len(heads), *([_cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _code(text: object) -> str:
    plain = " ".join(str(text).split())
    return f"`{plain}`" if plain else ""


def settings_page() -> str:
    """Every setting: variable, what it is, type, default."""
    from pydantic import SecretStr

    from service.settings import PREFIX, Settings

    def shown(value: Any) -> str:
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        return json.dumps(plain, default=str)

    def kind(field: Any) -> str:
        text = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
        return text.replace("typing.", "").replace("pathlib.", "").replace("SecretStr", "str, secret")

    rows = (
        (_code(f"{PREFIX}{name.upper()}"), field.description, _code(kind(field)), _code(shown(field.default)))
        for name, field in Settings.model_fields.items()
    )
    return (
        "# Settings\n\nEnvironment variables; lists and mappings are JSON. An empty variable stands for the default. "
        "`alertprod config` prints the effective values. [Operations](../../operations.md) and [security](../../security.md) say "
        f"what follows from them.\n\n{_table(('variable', 'what it is', 'type', 'default'), rows)}"
    )


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from service.commands.main import app

    root = typer.main.get_command(app)
    parts = [
        "# Commands\n\nWhat `alertprod COMMAND --help` says. Exit status: 0, 1 for a failure, 2 for settings and options.\n"
    ]
    for name, command in _commands("alertprod", root):
        words = (command.help or "").strip()
        parts.append(f"## {name}\n\n{words}\n")
        rows = [_option(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
        if rows:
            parts.append(_table(("option", "what it is", "default"), rows))
    return "\n".join(parts)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for key in sorted(inner):
        yield from _commands(f"{name} {key}", inner[key])


def _option(parameter: Any) -> tuple[str, str, str]:
    names = (
        [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "option"
        else [(parameter.metavar or parameter.name).upper()]
    )
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else str(getattr(default, "value", default))
    return ", ".join(_code(n) for n in names), getattr(parameter, "help", None) or "", _code(shown)


def http_page() -> str:
    """Every path of the API, the token that it asks for, its parameters."""
    from service.api.app import create_app
    from service.api.documentation.described import describe_access
    from service.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_uri="postgresql://nobody@127.0.0.1:1/none", upload_dir=Path(folder))
        document = describe_access(create_app(settings))
    parts = [
        "# HTTP API\n\n`GET /openapi.json` of a running service is the same for programs; `GET /docs` shows it as a page.\n"
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = operation.get("x-scopes")
            asks = f"Token with the scope {' or '.join(_code(s) for s in scopes)}." if scopes else "No token."
            words = operation.get("description") or operation.get("summary", "")
            parts.append(f"## {method.upper()} {path}\n\n{' '.join(words.split())} {asks}\n".replace("{", r"\{"))
            parts.append(_parameters(operation))
    return "\n".join(p for p in parts if p)


def _parameters(operation: dict[str, Any]) -> str:
    rows = [
        (
            _code(p["name"]),
            p["in"],
            _kind(p.get("schema", {})),
            p.get("description", ""),
            _code(p["schema"].get("default", "")),
        )
        for p in operation.get("parameters", [])
    ]
    rows += [("body", media, "", "", "") for media in operation.get("requestBody", {}).get("content", {})]
    return _table(("parameter", "in", "type", "what it is", "default"), rows) if rows else ""


def _kind(schema: dict[str, Any]) -> str:
    options = [str(o.get("type", "")) for o in schema.get("anyOf", [schema])]
    return " or ".join(o for o in options if o and o != "null")


def tables_page() -> str:
    """Every column of the published tables."""
    from apdb.schema.columns import APDB_TABLES, SCHEMA_VERSION, published_schema

    published = published_schema()
    parts = [
        f"# Tables\n\nThe tables of the APDB, schema {SCHEMA_VERSION} of `lsst-sdm-schemas`; [database](../../database.md) has the views and "
        "the tables beside them.\n"
    ]
    for table in APDB_TABLES:
        keys = published.keys.get(table, ())
        parts.append(f"## {table}\n\nPrimary key: {', '.join(_code(k) for k in keys) or 'none'}.\n")
        rows = (
            (_code(c.name), c.datatype, c.unit, "yes" if c.nullable else "no", c.description)
            for c in published.columns(table)
        )
        parts.append(_table(("column", "type", "unit", "null", "what it is"), rows))
    return "\n".join(parts)


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
        rows = ((_code(f["name"]), _avro(f["type"]), f.get("doc", "")) for f in record["fields"])
        parts += [f"## {name}\n", _table(("field", "type", "what it is"), rows)]
    rows = ((_code(f["name"]), _avro(f["type"]), f.get("doc", "")) for f in CORRECTION_SCHEMA["fields"])
    parts += [
        "## correction\n\nSee [corrections](../../corrections.md).\n",
        _table(("field", "type", "what it is"), rows),
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


class _AnyStatus:
    """Stands for the numbers of a service: the names of what is told of them do not depend on their values."""

    def __getitem__(self, name: object) -> "_AnyStatus":
        return self

    def items(self) -> list[tuple[str, int]]:
        return []

    def __float__(self) -> float:
        return 0.0


def metrics_page() -> str:
    """Every metric of ``GET /metrics``."""
    from service.observe.ledger_measures import _Status
    from service.observe.measures import MEASURES

    kinds = {"counter": "_total", "histogram": "_bucket, _sum, _count", "summary": "_sum, _count"}
    families = [(f, f.name, f.documentation, f.type) for f in _Status(_AnyStatus()).collect()]  # type: ignore[arg-type]
    own = [c for c in MEASURES._collector_to_names if hasattr(c, "_labelnames")]  # not those of the process
    families += [(c, c._name, c._documentation, c._type) for c in own]  # type: ignore[attr-defined]
    rows = [("`alertprod_up`", "gauge", "", "1 when the database answers.")]
    for holder, name, words, kind in families:
        labels = ", ".join(_code(n) for n in getattr(holder, "_labelnames", ()))
        rows.append((_code(name), f"{kind} ({kinds[kind]})" if kind in kinds else kind, labels, words))
    return (
        "# Metrics\n\n`GET /metrics` of the API with the scope `read`, and of every role on `ALERTPROD_METRICS_PORT`, in the format of Prometheus. "
        "[Operations](../../operations.md) says which role has which.\n\n"
        + _table(("metric", "type", "labels", "what it is"), rows)
    )


def tasks_page() -> str:
    """Every option of the tasks, as `task_config` of an instrument file takes them."""
    import importlib

    parts = [
        "# Options of the tasks\n\nSet in an instrument file (`task_config: {ImageDifferenceTask: {NAME: VALUE}}`, "
        "[instruments](../../instruments.md)), or as any task of `lsst.pipe.base` with `pipetask run -c`.\n"
    ]
    for name in ("diffim.ImageDifferenceTask", "association.DiaPipelineTask", "forced.ForcedPhotCcdFromDataFrameTask",
                 "calibration.JointcalTask", "calibration.UpdateVisitSummaryTask"):  # fmt: skip
        room, cls = name.split(".")
        config = getattr(importlib.import_module(room), cls).ConfigClass
        fields = [(n, f) for n, f in config._fields.items() if n not in ("connections", "saveLogOutput")]
        rows = ((_code(n), getattr(f, "doc", ""), _code(getattr(f, "default", ""))) for n, f in sorted(fields))
        parts += [f"## {cls}\n", _table(("option", "what it is", "default"), rows)]
    return "\n".join(parts)


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
    "settings": settings_page, "commands": commands_page, "http": http_page, "tables": tables_page,
    "packets": packets_page, "metrics": metrics_page, "tasks": tasks_page, "others": others_page,
}  # fmt: skip


def write_reference(folder: Path) -> None:
    """Write all pages; a page that stays as it is keeps its time, so that only what changed is built again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / f"{name}.md", page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
