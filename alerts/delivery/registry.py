"""A Confluent-compatible schema registry: check and registration before the first alert.

The id in the wire header is the registry's. A site that imported Rubin's ids keeps them (1101); else it is what the
registry gave. Without a registry the id is Rubin's, and the service itself serves the schemas (``/subjects``).
"""

from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import psycopg

from alerts.errors import RegistryUnavailable, SchemaRefused
from alerts.packets.schemas import SCHEMA_ID, schema_document

__all__ = ["SchemaRegistry", "learn_wire_id"]

_TYPE = "application/vnd.schemaregistry.v1+json"


class SchemaRegistry:
    """A registry at a URL; user name and password may be part of it."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        self.name = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        self._client = httpx.Client(timeout=timeout_s, headers={"Accept": _TYPE, "Content-Type": _TYPE})
        if parts.username:
            self._client.auth = httpx.BasicAuth(parts.username, parts.password or "")

    def check(self, subject: str, schema_id: int = SCHEMA_ID, document: str | None = None) -> int | None:
        """Return the registry's id of a schema, None where it is not registered and may be; errors as `register`."""
        path, body = quote(subject, safe=""), _body(schema_id, document)
        registered = self._find(f"/subjects/{path}", body)
        if registered is not None:
            return int(registered["id"])
        checked = self._find(f"/compatibility/subjects/{path}/versions/latest", body)
        if checked is not None and not checked.get("is_compatible", True):
            why = "; ".join(map(str, checked.get("messages", [])))[:500]
            raise SchemaRefused(
                f"registry {self.name}: schema {schema_id} is incompatible with subject {subject}: {why}"
            )
        return None

    def register(self, subject: str, schema_id: int = SCHEMA_ID, document: str | None = None) -> int:
        """Return the registry's id of a schema (`document`, by default that of alerts), registered now when it was not.

        Raises
        ------
        RegistryUnavailable
            No answer in time, or a server error.
        SchemaRefused
            Incompatible with what the subject holds, or not allowed.
        """
        registered = self.check(subject, schema_id, document)
        if registered is not None:
            return registered
        versions = f"/subjects/{quote(subject, safe='')}/versions"
        body = _body(schema_id, document)
        return int(self._content(versions, self._post(versions, body))["id"])

    def _find(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a question, None when the registry does not have what was asked for."""
        reply = self._post(path, body)
        return None if reply.status_code == 404 else self._content(path, reply)

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return self._client.post(f"{self.name}{path}", json=body)
        except httpx.HTTPError as error:
            raise RegistryUnavailable(f"registry {self.name}: {type(error).__name__}: {error}") from error

    def _content(self, path: str, reply: httpx.Response) -> dict[str, Any]:
        """Return the JSON object of a reply."""
        if reply.status_code >= 500 or reply.status_code == 429:
            raise RegistryUnavailable(f"registry {self.name}: HTTP {reply.status_code}")
        if reply.status_code >= 400:
            raise SchemaRefused(f"registry {self.name}{path}: HTTP {reply.status_code}: {reply.text[:500]}")
        content = reply.json()
        if not isinstance(content, dict):
            raise SchemaRefused(f"registry {self.name}{path}: the answer is no JSON object: {reply.text[:500]}")
        return content


def _body(schema_id: int, document: str | None) -> dict[str, Any]:
    return {"schema": document or schema_document(schema_id), "schemaType": "AVRO"}


def learn_wire_id(
    connection: psycopg.Connection[Any],
    registry: SchemaRegistry,
    subject: str,
    schema_id: int = SCHEMA_ID,
    document: str | None = None,
) -> int:
    """Return the id for the wire header: the registry's, or, while it is away, the one that it gave before.

    Raises
    ------
    RegistryUnavailable
        It is away, and was never asked.
    SchemaRefused
        It refuses the schema.
    """
    try:
        wire_id = registry.register(subject, schema_id, document)
    except RegistryUnavailable:
        row = connection.execute(
            'SELECT "wireId" FROM "AlertSchemaId" WHERE registry = %s AND subject = %s AND "schemaId" = %s',
            (registry.name, subject, schema_id),
        ).fetchone()
        if row is None:
            raise
        return int(row[0])
    connection.execute(
        'INSERT INTO "AlertSchemaId" (registry, subject, "schemaId", "wireId") VALUES (%s, %s, %s, %s) '
        'ON CONFLICT (registry, subject, "schemaId") DO UPDATE SET "wireId" = excluded."wireId"',
        (registry.name, subject, schema_id, wire_id),
    )
    return wire_id
