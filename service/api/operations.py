"""What operators and their machines ask of the service: alive, ready, metrics."""

import logging

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from apdb.errors import DatabaseUnavailable, SchemaMismatch
from service.api.documentation.described import PROBLEMS
from service.api.problems import RETRY_AFTER_S, problem
from service.api.resources import Shared
from service.observe.ledger_measures import render_metrics
from service.observe.measures import MEASURES

__all__ = ["operations"]

_log = logging.getLogger("alertprod.api")
_NOT_READY = PROBLEMS[503] | {"description": "Not ready: the database does not answer, or has another schema"}
operations = APIRouter(tags=["operations"])


@operations.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> PlainTextResponse:
    """Alive: answered by the event loop itself, whatever its threads wait for."""
    return PlainTextResponse("ok\n")


@operations.get("/readyz", response_class=PlainTextResponse, responses={503: _NOT_READY})
def readyz(shared: Shared) -> Response:
    """Ready: the database answers and has the right schema. Whoever asks is not told where it is.

    Without a broker visits are accepted and done, and alerts wait; of a standby all can be read, and visits are told to come
    again: the answer says so, and is still yes (200). The port of metrics of each role has a ``/readyz`` of its own.
    """
    try:
        shared.database.check_schema(newer_is_good=True)
        writable = shared.database.takes_writes()
    except (DatabaseUnavailable, SchemaMismatch) as error:
        _log.warning("not ready: %s", error)
        text = str(error) if shared.settings.access == "local" else "not ready: the log of the service says why"
        return problem(503, error.code, text, RETRY_AFTER_S)
    if not writable:
        _log.warning("the database takes no writes: it is a standby, or set to read only")
        return PlainTextResponse(
            "ready, degraded: the database takes no writes: what is stored can be read, visits must be sent again later\n"
        )
    problem_of_broker = shared.broker.problem()
    if problem_of_broker is None:
        return PlainTextResponse("ready\n")
    _log.warning("no broker: %s", problem_of_broker)
    return PlainTextResponse("ready, degraded: no broker answers: visits are accepted and done, alerts wait\n")


@operations.get("/metrics", response_class=PlainTextResponse)
def metrics(shared: Shared) -> Response:
    """OpenMetrics."""
    text = render_metrics(shared.database, shared.settings.alert_topic, MEASURES)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
