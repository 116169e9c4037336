"""The HTTP API. Handlers are synchronous and run in the thread pool; no Kafka client lives in this process.

What they load first (pixels of the sky, tables, image headers) is loaded by the first request that needs it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from service.access.acts import Acts
from service.access.keys import Keys, open_keys
from service.api.dead_letters import dead_letters
from service.api.documentation.described import PROBLEMS
from service.api.documentation.page import documentation
from service.api.documentation.site import site
from service.api.guard.access_log import AccessLog
from service.api.guard.gate import Gate
from service.api.guard.shield import BodyLimits, Shield
from service.api.operations import operations
from service.api.preparing.next_visits import next_visits
from service.api.preparing.templates import templates
from service.api.problems import add_problem_handlers
from service.api.reads import reads
from service.api.resources import Resources, open_resources, set_resources
from service.api.schema_registry import schemas
from service.api.session import session
from service.api.stream.events import events
from service.api.uploads import sweep_for_ever
from service.api.visits import visits
from service.api.vo.footprint import footprint
from service.api.vo.stored_images import stored_images
from service.api.vo.tap import tap
from service.api.vo.uws import stop_jobs, tap_jobs
from service.pages.routes import add_pages
from service.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its folder of uploads is made where it is missing.

    Raises
    ------
    SettingsError
        No database is named, or the file of the token cannot be used.
    """
    resources = open_resources(settings)
    acts = Acts(resources.database)

    @asynccontextmanager
    async def until_closed(_app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(sweep_for_ever(settings, resources.database))
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        acts.close()
        await run_in_threadpool(stop_jobs, resources)
        resources.close()

    app = FastAPI(
        title="alertprod",
        version=version("alertprod"),
        description="Alert production: post a visit, read its state.",
        openapi_url=None,  # our own page instead of one that a browser fetches from elsewhere
        redirect_slashes=False,  # a redirect would repeat the Host that a client made up
        lifespan=until_closed,
    )
    set_resources(app, resources)
    settings.upload_dir.mkdir(parents=True, exist_ok=True)
    add_problem_handlers(app)
    routers = (
        visits, events, templates, next_visits, dead_letters, reads, footprint, tap, tap_jobs, stored_images,
        session, schemas, operations,
    )  # fmt: skip
    for router in routers:
        app.include_router(router, responses=PROBLEMS)
    if settings.api_docs:
        app.include_router(documentation)
    app.include_router(site)
    add_pages(app, PROBLEMS)
    _guard(app, resources, open_keys(settings, resources.database), acts)
    return app


def _guard(app: FastAPI, resources: Resources, keys: Keys, acts: Acts) -> None:
    """Put the log before the shield, the shield before the gate, and the gate before everything."""
    settings = resources.settings
    app.add_middleware(
        Gate,
        keys=keys,
        acts=acts,
        rate_limit=settings.rate_limit,
        visits_per_day=settings.visits_per_day,
    )
    limits = BodyLimits(settings.max_upload_mb << 20, settings.body_timeout_s)
    app.add_middleware(Shield, limits=limits, admission=resources.admission)
    app.add_middleware(AccessLog, told=settings.access_log)
