"""The HTTP API. Handlers are synchronous and run in the thread pool; no Kafka client lives in this process.

What they load first (pixels of the sky, tables, image headers) is loaded by the first request that needs it.
"""

from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import FastAPI, Request, Response

from service.api.dead_letters import dead_letters
from service.api.operations import operations
from service.api.problems import add_problem_handlers, too_large
from service.api.reads import reads
from service.api.resources import open_resources, set_resources
from service.api.schema_registry import schemas
from service.api.visits import MAX_JSON, visits
from service.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its folder of uploads is made where it is missing.

    Raises
    ------
    SettingsError
        No database is named.
    """
    app = FastAPI(
        title="alertprod", version=version("alertprod"), description="Alert production: post a visit, read its state."
    )
    set_resources(app, open_resources(settings))
    settings.upload_dir.mkdir(parents=True, exist_ok=True)
    add_problem_handlers(app)
    _limit_bodies(app, settings.max_upload_mb << 20)
    for router in (visits, dead_letters, reads, schemas, operations):
        app.include_router(router)
    return app


def _limit_bodies(app: FastAPI, largest_upload: int) -> None:
    """Refuse bodies that say that they are larger than `largest_upload` bytes, or `MAX_JSON` without an image."""

    @app.middleware("http")
    async def limit(request: Request, forward: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        multipart = request.headers.get("content-type", "").startswith("multipart/")
        most = largest_upload if multipart else MAX_JSON
        if not length.isdigit() or int(length) > most:
            return too_large(most)
        return await forward(request)
