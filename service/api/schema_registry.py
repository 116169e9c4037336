"""A read-only schema registry: every published alert schema under the ids of the wire header.

The part of Confluent's REST interface that deserializers and tools read: ``/subjects``, ``/subjects/{s}/versions``,
``/schemas/ids/{id}``, ``/config``, ``/mode``. The subjects of alerts hold the same versions, numbered from 1, the oldest; the one
of corrections has its own.
"""

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from alerts.packets.corrections import CORRECTION_ID, CORRECTION_SUBJECT, correction_document
from alerts.packets.schemas import schema_document, schema_ids
from service.api.documentation.described import PROBLEM_KIND
from service.api.resources import Shared
from service.media import kinds

__all__ = ["schemas"]

schemas = APIRouter(tags=["schemas"])

_TYPE = "application/vnd.schemaregistry.v1+json"
_ANSWERS: dict[str, Any] = {"response_class": Response, "responses": kinds(_TYPE)}
_OR_NONE: dict[str, Any] = {
    "response_class": Response,
    "responses": kinds(_TYPE) | kinds(_TYPE, PROBLEM_KIND, status=404, words="There is no such subject, version or id"),
}


def _reply(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type=_TYPE)


def _missing(code: int, text: str) -> Response:
    return _reply({"error_code": code, "message": text}, 404)


def _ids(subject: str, shared: Shared) -> tuple[int, ...]:
    """Return the schema ids of the versions of a subject, oldest first; none where there is no such subject."""
    if subject == CORRECTION_SUBJECT:
        return (CORRECTION_ID,)
    return schema_ids() if subject in shared.subjects else ()


def _id_of(version: str, ids: tuple[int, ...]) -> int | None:
    """Return the schema id of a version number or ``latest``."""
    if version in ("latest", "-1"):
        return ids[-1] if ids else None
    return ids[int(version) - 1] if version.isdigit() and 1 <= int(version) <= len(ids) else None


def _document(number: int) -> str:
    return correction_document() if number == CORRECTION_ID else schema_document(number)


def _known(number: int) -> bool:
    return number == CORRECTION_ID or number in schema_ids()


@schemas.get("/subjects", **_ANSWERS)
def list_subjects(shared: Shared) -> Response:
    """Names of the subjects."""
    return _reply(sorted([*shared.subjects, CORRECTION_SUBJECT]))


@schemas.get("/subjects/{subject}/versions", **_OR_NONE)
def list_versions(subject: str, shared: Shared) -> Response:
    """Numbers of the versions, oldest first."""
    ids = _ids(subject, shared)
    if not ids:
        return _missing(40401, f"Subject '{subject}' not found.")
    return _reply(list(range(1, len(ids) + 1)))


@schemas.get("/subjects/{subject}/versions/{version}", **_OR_NONE)
def get_version(subject: str, version: str, shared: Shared) -> Response:
    """One version (a number or ``latest``) with its id and schema."""
    ids = _ids(subject, shared)
    if not ids:
        return _missing(40401, f"Subject '{subject}' not found.")
    number = _id_of(version, ids)
    if number is None:
        return _missing(40402, f"Version {version} not found.")
    return _reply(
        {
            "subject": subject,
            "version": ids.index(number) + 1,
            "id": number,
            "schemaType": "AVRO",
            "schema": _document(number),
        }
    )


@schemas.get("/subjects/{subject}/versions/{version}/schema", **_OR_NONE)
def get_bare(subject: str, version: str, shared: Shared) -> Response:
    """One version, the schema alone."""
    number = _id_of(version, _ids(subject, shared))
    if number is None:
        return _missing(40402, f"Version {version} of '{subject}' not found.")
    return Response(_document(number), media_type=_TYPE)


@schemas.get("/schemas/ids/{number}", **_OR_NONE)
def get_schema(number: int) -> Response:
    """The schema of a wire id (1101 is version 11.1)."""
    if not _known(number):
        return _missing(40403, f"Schema {number} not found")
    return _reply({"schema": _document(number), "schemaType": "AVRO"})


@schemas.get("/schemas/ids/{number}/versions", **_OR_NONE)
def get_uses(number: int, shared: Shared) -> Response:
    """Subjects and versions that a wire id stands for."""
    if not _known(number):
        return _missing(40403, f"Schema {number} not found")
    subjects = [(s, _ids(s, shared)) for s in (*sorted(shared.subjects), CORRECTION_SUBJECT)]
    return _reply([{"subject": s, "version": ids.index(number) + 1} for s, ids in subjects if number in ids])


@schemas.get("/schemas/types", **_ANSWERS)
def get_types() -> Response:
    """Kinds of schema."""
    return _reply(["AVRO"])


@schemas.get("/config", **_ANSWERS)
def get_config() -> Response:
    """Compatibility: versions are published by Rubin, none is refused here."""
    return _reply({"compatibilityLevel": "NONE"})


@schemas.get("/mode", **_ANSWERS)
def get_mode() -> Response:
    """Nothing can be registered here."""
    return _reply({"mode": "READONLY"})
