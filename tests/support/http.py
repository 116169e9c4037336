"""The HTTP API in this process: requests without a server."""

import asyncio

import httpx

from service.api.app import create_app

__all__ = ["asking"]


def asking(settings):
    """Return ``ask(method, path, **more)`` of an application with these settings."""
    transport = httpx.ASGITransport(app=create_app(settings), raise_app_exceptions=False)

    def ask(method, path, **more):
        async def answer():
            async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
                return await client.request(method, path, **more)

        return asyncio.run(answer())

    return ask
