"""The alert schemas: every version that ``lsst-alert-packet`` ever published, so that old alerts stay readable."""

import json
from functools import lru_cache
from importlib.resources import files

from alertprod_client.schemas import SCHEMA_ID, SCHEMA_VERSION, fields_of, schema

__all__ = ["SCHEMA_ID", "SCHEMA_VERSION", "SUBJECT", "fields_of", "schema", "schema_document", "schema_ids"]

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
def schema_document(schema_id: int = SCHEMA_ID) -> str:
    """Return one version as the JSON document that schema registries keep.

    Raises
    ------
    AlertError
        There is no such version.
    """
    return json.dumps({k: v for k, v in schema(schema_id).items() if k not in _OWN_KEYS}, separators=(",", ":"))
