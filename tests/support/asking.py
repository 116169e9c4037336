"""An application of the HTTP API asked in this process, without a server."""

import asyncio

import httpx

from service.api.app import create_app
from service.settings import load_settings

__all__ = ["NOWHERE", "asker"]

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"  # a database that is never asked


def asker(uploads, app=None, address="127.0.0.1", **settings):
    """Return a function that asks an application (METHOD, PATH, more of httpx), and the application."""
    app = app or create_app(load_settings(**{"database_uri": NOWHERE, "upload_dir": uploads, **settings}))
    transport = httpx.ASGITransport(app=app, client=(address, 1), raise_app_exceptions=False)

    def ask(method, path, **more):
        async def answer():
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                async with app.router.lifespan_context(app):  # what it opened is closed
                    return await client.request(method, path, **more)

        return asyncio.run(answer())

    return ask, app
