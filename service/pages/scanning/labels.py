"""Labels of detections over HTTP: given, taken back, exported."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from apdb.labels import labels_query, remove_label, store_label
from apdb.queries import MAX_ROWS
from service.media import ROWS
from service.pages.shared import Pages

__all__ = ["labels"]

labels = APIRouter(tags=["labels"])

Limit = Annotated[int, Query(description="rows at most", json_schema_extra={"minimum": 1, "maximum": MAX_ROWS})]
Source = Annotated[int, Path(ge=0, lt=1 << 63)]


class Label(BaseModel):
    """What a detection is, to whoever looked at it."""

    label: Literal["real", "bogus", "unsure"] = Field(description="what it is")


@labels.get("/v1/labels", response_class=Response, responses=ROWS)
def export(
    request: Request,
    kind: Annotated[
        Literal["csv", "parquet", "votable", "json"] | None, Query(alias="format", description="json by default")
    ] = None,
    limit: Limit = 100_000,
) -> Response:
    """Every label with what is known of its detection, for the training of reliability."""
    answer: Response = request.app.state.resources.answers.give(labels_query(limit), kind or "json")
    return answer


@labels.put("/v1/labels/{source_id}")
def give(source_id: Source, label: Label, request: Request, shared: Pages) -> dict[str, Any]:
    """Label a detection; a later label of the same person takes the place of an earlier one."""
    who = request.state.principal.name
    with shared.database.session() as connection:
        store_label(connection, source_id, who, label.label)
    return {"diaSourceId": source_id, "label": label.label, "principal": who}


@labels.delete("/v1/labels/{source_id}")
def take_back(source_id: Source, request: Request, shared: Pages) -> dict[str, Any]:
    """Take back one's own label."""
    with shared.database.session() as connection:
        remove_label(connection, source_id, request.state.principal.name)
    return {"diaSourceId": source_id}
