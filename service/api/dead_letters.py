"""Dead letters over HTTP: visit messages that could not be entered, listed, shown, entered again, discarded."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse

from apdb.queue.dead_letters import DeadLetterState
from service.api.resources import Shared
from service.intake.requeue import discard, listed_letters, requeue, whole_letter

__all__ = ["dead_letters"]

dead_letters = APIRouter(tags=["dead letters"], prefix="/v1/dead-letters")

Number = Annotated[int, Path(ge=1, lt=1 << 63, description="number of the dead letter")]


@dead_letters.get("")
def list_letters(
    shared: Shared,
    state: Annotated[DeadLetterState | None, Query(description="of this state only")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="the newest so many")] = 100,
    before: Annotated[int | None, Query(ge=1, lt=1 << 63, description="`next` of the page before")] = None,
) -> dict[str, Any]:
    """List dead letters, the newest first, without their contents."""
    letters = listed_letters(shared.database, state, limit, before)
    return {"deadLetters": letters, "next": letters[-1]["id"] if len(letters) == limit else None}


@dead_letters.get("/{number}")
def show_letter(number: Number, shared: Shared) -> dict[str, Any]:
    """One dead letter with key, headers and value: as text, or as base64 where they are none."""
    return whole_letter(shared.database, number)


@dead_letters.post("/{number}/requeue", status_code=202)
def requeue_letter(number: Number, shared: Shared) -> Response:
    """Enter its message again, after what was wrong outside of it was mended."""
    visit = requeue(shared.database, number, shared.settings, shared.headers)
    return JSONResponse(visit, 202, {"Location": f"/v1/visits/{visit['visit']}/{visit['detector']}"})


@dead_letters.post("/{number}/discard")
def discard_letter(number: Number, shared: Shared) -> dict[str, Any]:
    """Set it aside for good; its row stays."""
    return discard(shared.database, number)
