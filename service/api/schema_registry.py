"""A read-only schema registry: every published alert schema under the ids of the wire header.

The part of Confluent's REST interface that deserializers and tools read: ``/subjects``, ``/subjects/{s}/versions``,
``/schemas/ids/{id}``, ``/config``, ``/mode``.
"""

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from alerts.packets.schemas import schema_document, schema_ids

__all__ = ["schemas_router"]

_TYPE = "application/vnd.schemaregistry.v1+json"


def _reply(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type=_TYPE)


def _missing(code: int, text: str) -> Response:
    return _reply({"error_code": code, "message": text}, 404)


def _version_of(number: str) -> int | None:
    """Return the schema id of a version number (1 is the oldest) or ``latest``."""
    ids = schema_ids()
    if number in ("latest", "-1"):
        return ids[-1]
    return ids[int(number) - 1] if number.isdigit() and 1 <= int(number) <= len(ids) else None


def schemas_router(subjects: tuple[str, ...]) -> APIRouter:
    """Return the routes.

    Parameters
    ----------
    subjects
        Names under which the schemas are found; all hold the same versions.
    """
    routes = APIRouter(tags=["schemas"])

    @routes.get("/subjects")
    def list_subjects() -> Response:
        """Names of the subjects."""
        return _reply(sorted(subjects))

    @routes.get("/subjects/{subject}/versions")
    def list_versions(subject: str) -> Response:
        """Numbers of the versions, oldest first."""
        if subject not in subjects:
            return _missing(40401, f"Subject '{subject}' not found.")
        return _reply(list(range(1, len(schema_ids()) + 1)))

    @routes.get("/subjects/{subject}/versions/{version}")
    def get_version(subject: str, version: str) -> Response:
        """One version (a number or ``latest``) with its id and schema."""
        if subject not in subjects:
            return _missing(40401, f"Subject '{subject}' not found.")
        number = _version_of(version)
        if number is None:
            return _missing(40402, f"Version {version} not found.")
        place = schema_ids().index(number) + 1
        return _reply(
            {
                "subject": subject,
                "version": place,
                "id": number,
                "schemaType": "AVRO",
                "schema": schema_document(number),
            }
        )

    @routes.get("/subjects/{subject}/versions/{version}/schema")
    def get_bare(subject: str, version: str) -> Response:
        """One version, the schema alone."""
        number = _version_of(version)
        if subject not in subjects or number is None:
            return _missing(40402, f"Version {version} of '{subject}' not found.")
        return Response(schema_document(number), media_type=_TYPE)

    @routes.get("/schemas/ids/{number}")
    def get_schema(number: int) -> Response:
        """The schema of a wire id (1101 is version 11.1)."""
        if number not in schema_ids():
            return _missing(40403, f"Schema {number} not found")
        return _reply({"schema": schema_document(number), "schemaType": "AVRO"})

    @routes.get("/schemas/ids/{number}/versions")
    def get_uses(number: int) -> Response:
        """Subjects and versions that a wire id stands for."""
        if number not in schema_ids():
            return _missing(40403, f"Schema {number} not found")
        place = schema_ids().index(number) + 1
        return _reply([{"subject": subject, "version": place} for subject in sorted(subjects)])

    @routes.get("/schemas/types")
    def get_types() -> Response:
        """Kinds of schema."""
        return _reply(["AVRO"])

    @routes.get("/config")
    def get_config() -> Response:
        """Compatibility: versions are published by Rubin, none is refused here."""
        return _reply({"compatibilityLevel": "NONE"})

    @routes.get("/mode")
    def get_mode() -> Response:
        """Nothing can be registered here."""
        return _reply({"mode": "READONLY"})

    return routes
