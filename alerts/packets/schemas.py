"""The alert schemas: every version that ``lsst-alert-packet`` ever published, so that old alerts stay readable."""

import json
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import fastavro

from alerts.errors import AlertError

__all__ = ["SCHEMA_ID", "SCHEMA_VERSION", "SUBJECT", "fields_of", "schema", "schema_document", "schema_ids"]

SCHEMA_VERSION = (11, 1)
SCHEMA_ID = SCHEMA_VERSION[0] * 100 + SCHEMA_VERSION[1]
SUBJECT = "alert-packet"
_OWN_KEYS = ("__fastavro_parsed", "__named_schemas")


@lru_cache(maxsize=1)
def schema_ids() -> tuple[int, ...]:
    """Return the ids (major * 100 + minor) of all published versions, oldest first."""
    ids = []
    for major in (files("lsst.alert.packet") / "schema").iterdir():
        if major.name.isdigit():
            ids += [int(major.name) * 100 + int(m.name) for m in major.iterdir() if m.name.isdigit()]
    return tuple(sorted(ids))


@lru_cache(maxsize=32)
def schema(schema_id: int = SCHEMA_ID) -> dict[str, Any]:
    """Return the parsed alert schema of an id (1101 = 11.1).

    Raises
    ------
    AlertError
        ``lsst-alert-packet`` has no such version.
    """
    major, minor = divmod(schema_id, 100)
    folder = files("lsst.alert.packet") / "schema" / str(major) / str(minor)
    try:
        with as_file(folder / f"lsst.v{major}_{minor}.alert.avsc") as path:
            return dict(fastavro.schema.load_schema(str(path)))
    except (OSError, fastavro.repository.base.SchemaRepositoryError) as error:
        raise AlertError(f"no alert schema {major}.{minor} (id {schema_id})") from error


@lru_cache(maxsize=32)
def schema_document(schema_id: int = SCHEMA_ID) -> str:
    """Return one version as the JSON document that schema registries keep.

    Raises
    ------
    AlertError
        There is no such version.
    """
    return json.dumps({k: v for k, v in schema(schema_id).items() if k not in _OWN_KEYS}, separators=(",", ":"))


@lru_cache(maxsize=16)
def fields_of(record: str) -> tuple[tuple[str, str, bool], ...]:
    """Return (name, Avro type, nullable) of the fields of a record of the newest schema.

    Raises
    ------
    KeyError
        The alert holds no such record.
    """
    out = []
    for field in _record(record)["fields"]:
        options = field["type"] if isinstance(field["type"], list) else [field["type"]]
        kinds = [o for o in options if o != "null"]
        kind = kinds[0]["type"] if isinstance(kinds[0], dict) else kinds[0]
        out.append((field["name"], str(kind), "null" in options))
    return tuple(out)


def _record(name: str) -> dict[str, Any]:
    """Find a named record inside the schema, wherever it was first used."""
    full = f"lsst.v{SCHEMA_VERSION[0]}_{SCHEMA_VERSION[1]}.{name}"
    stack: list[Any] = [schema()]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("type") == "record" and item.get("name") in (full, name):
                return item
            stack.extend(v for k, v in item.items() if k not in _OWN_KEYS)
        elif isinstance(item, list):
            stack.extend(item)
    raise KeyError(full)
