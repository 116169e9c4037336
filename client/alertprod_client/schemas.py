"""The schemas that packets are read by: the newest is in this package, others are learnt from a registry.

Where ``lsst-alert-packet`` happens to be installed every version that it published is known, too.
"""

import json
import urllib.error
import urllib.request
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import fastavro

from alertprod_client.errors import AlertError, TransientError

__all__ = ["SCHEMA_ID", "SCHEMA_VERSION", "fields_of", "is_known", "learn_schemas", "schema"]

SCHEMA_VERSION = (11, 1)
SCHEMA_ID = SCHEMA_VERSION[0] * 100 + SCHEMA_VERSION[1]
REQUEST_TIMEOUT_S = 20.0
_NAMED = "__named_schemas"
_LEARNT: dict[int, dict[str, Any]] = {}


def schema(schema_id: int = SCHEMA_ID) -> dict[str, Any]:
    """Return the parsed alert schema of an id (1101 = 11.1).

    Raises
    ------
    AlertError
        Neither this package nor a registry that was learnt from has it.
    """
    learnt = _LEARNT.get(schema_id)
    return learnt if learnt is not None else _published(schema_id)


@lru_cache(maxsize=32)
def _published(schema_id: int) -> dict[str, Any]:
    if schema_id == SCHEMA_ID:
        text = (files("alertprod_client") / f"alert-{SCHEMA_ID}.json").read_text(encoding="utf-8")
        return dict(fastavro.parse_schema(json.loads(text)))
    major, minor = divmod(schema_id, 100)
    try:
        folder = files("lsst.alert.packet") / "schema" / str(major) / str(minor)
        with as_file(folder / f"lsst.v{major}_{minor}.alert.avsc") as path:
            return dict(fastavro.schema.load_schema(str(path)))
    except (ImportError, OSError, fastavro.repository.base.SchemaRepositoryError) as error:
        raise AlertError(
            f"no alert schema {major}.{minor} (id {schema_id}); alertprod_client.learn_schemas('http://HOST:8080') takes "
            "those that a service or a registry has"
        ) from error


def is_known(schema_id: int) -> bool:
    """Whether there is a schema of this id."""
    try:
        schema(schema_id)
    except AlertError:
        return False
    return True


def learn_schemas(registry: str, *, token: str | None = None, subject: str = "alert-packet") -> list[int]:
    """Take over the alert schemas of a service or of any Confluent registry; returns their ids there.

    Parameters
    ----------
    registry
        URL of the service (``http://host:8080``) or of the registry.
    token
        Token with the scope ``read``, where the service asks for one.
    subject
        Name that the registry has them under.

    Raises
    ------
    TransientError
        The registry does not answer.
    AlertError
        It answers, but not with alert schemas.
    """
    base = f"{registry.rstrip('/')}/subjects/{subject}/versions"
    ids = []
    for version in _asked(base, token):
        answer = _asked(f"{base}/{version}", token)
        try:
            number, parsed = int(answer["id"]), dict(fastavro.parse_schema(json.loads(answer["schema"])))
        except (TypeError, KeyError, ValueError, fastavro.schema.SchemaParseException) as error:
            raise AlertError(f"{base}/{version} is no alert schema: {error}") from error
        _LEARNT[number] = parsed
        ids.append(number)
    return ids


def _asked(url: str, token: str | None) -> Any:
    if not url.startswith(("http://", "https://")):
        raise AlertError(f"{url}: a registry is named by an http:// or https:// address")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as reply:  # noqa: S310
            return json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            raise AlertError(f"{url} answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise TransientError(f"{url} cannot be read: {error}") from error


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
    stack: list[Any] = [_published(SCHEMA_ID)]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if item.get("type") == "record" and item.get("name") in (full, name):
                return item
            stack.extend(v for k, v in item.items() if k != _NAMED)
        elif isinstance(item, list):
            stack.extend(item)
    raise KeyError(full)
