"""What the OpenAPI document says of every path: the errors that all answer with, and the token that they ask for."""

from typing import Any

from fastapi import FastAPI

from service.access.policy import is_public, rule_of

__all__ = ["PROBLEMS", "PROBLEM_KIND", "describe_access", "form_of", "parameters_of"]

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "help"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "one of docs/errors"},
        "detail": {"type": "string"},
        "help": {"type": "string"},
    },
}
_MEANINGS = {
    400: "No request that can be understood",
    401: "It is not known who is asking",
    403: "Who is asking may not do it",
    404: "It is not there",
    408: "The request came too slowly",
    413: "The body is too large",
    415: "The body is of another kind",
    422: "The request makes no sense",
    429: "Asked too often: Retry-After says when again",
    431: "The head is too large",
    500: "A fault of the program",
    503: "Something that is needed is away or busy: Retry-After says when to ask again",
}
# parameters of paths, which mean the same wherever they stand
_PATH_WORDS = {
    "visit": "visit number",
    "detector": "detector number",
    "object_id": "diaObjectId",
    "source_id": "diaSourceId",
    "job": "id of the query, as the answer to its POST says",
    "session_id": "as the list of sessions shows it",
    "subject": "name of the subject (ALERTPROD_SCHEMA_SUBJECT)",
    "version": "number of the version, or `latest`",
    "number": "schema id of the wire format",
}
PROBLEM_KIND = "application/problem+json"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {PROBLEM_KIND: {"schema": _PROBLEM}}}
    for status, words in _MEANINGS.items()
}


def parameters_of(**named: dict[str, Any]) -> dict[str, Any]:
    """Return what the document says of parameters that a handler reads itself, by their schemas; ``required`` in one says so."""
    return {"parameters": [{"name": name, "in": "query", **_said(schema)} for name, schema in named.items()]}


def _said(schema: dict[str, Any]) -> dict[str, Any]:
    about = {"description", "required"}
    return {
        "required": schema.get("required", False),
        "description": schema.get("description", ""),
        "schema": {k: v for k, v in schema.items() if k not in about},
    }


def form_of(**named: dict[str, Any]) -> dict[str, Any]:
    """Return what the document says of a form that a handler reads itself, as `parameters_of`."""
    properties = {name: {k: v for k, v in schema.items() if k != "required"} for name, schema in named.items()}
    needed = [name for name, schema in named.items() if schema.get("required")]
    schema = {"type": "object", "properties": properties, **({"required": needed} if needed else {})}
    body = {"required": bool(needed), "content": {"application/x-www-form-urlencoded": {"schema": schema}}}
    return {"requestBody": body}


def describe_access(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document with the token that each operation needs, and one of which scopes."""
    document = app.openapi()
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer", "description": "alertprod tokens create NAME --scope SCOPE"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path" and parameter["name"] in _PATH_WORDS:
                    parameter.setdefault("description", _PATH_WORDS[parameter["name"]])
            if not is_public(method.upper(), path):
                operation["security"] = [{"token": []}]
                operation["x-scopes"] = list(rule_of(method.upper(), path).scopes)
    return document
