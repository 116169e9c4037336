"""The HTTP API on a port of this machine, in a thread: what needs a real server, such as streams."""

import json
import threading
from contextlib import contextmanager

import httpx

from service.api.app import create_app
from service.api.guard.server import make_server
from service.settings import load_settings
from tasks.local_server import free_port
from tasks.waiting import wait_until

__all__ = ["events_of", "running", "serving"]


@contextmanager
def running(app, settings):
    """Serve an application on the port of its settings, and give its address."""
    server = make_server(app, settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert wait_until(lambda: server.started, 30.0)
    try:
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        server.should_exit = True
        thread.join(30.0)
        assert not thread.is_alive()


@contextmanager
def serving(database, folder, **settings):
    """Serve, and give a client of it."""
    given = {"database_uri": database.uri, "upload_dir": folder / "up", "data_roots": [folder], "port": free_port()}
    effective = load_settings(**{**given, **settings})
    with (
        running(create_app(effective), effective) as address,
        httpx.Client(base_url=address, timeout=30.0) as client,
    ):
        yield client


def events_of(response):
    """Yield (id, event, data) of a stream of server-sent events; comments as (None, None, text)."""
    fields = {}
    for line in response.iter_lines():
        if line.startswith(":"):
            yield None, None, line
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("id"), fields.get("event"), json.loads(fields.get("data", "null"))
            fields = {}
