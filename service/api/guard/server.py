"""The HTTP server: connections with limits, TLS where a certificate is given, nothing said of what it is made of."""

import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from service.access.listening import check_listening
from service.api.guard.protocol import ConnectionLimits, protocol_with
from service.errors import SettingsError
from service.settings import Settings
from service.startup import settle

__all__ = ["make_server", "run_server"]

FIRST = ("exposure.instrument", "exposure.header.times", "exposure.io.opening")  # what the first message needs
SWITCH_S = 0.0005  # after which a thread that computes gives way: the one that takes requests waits for each of them, 5 ms by default


def make_server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Return a server that does not run yet.

    Raises
    ------
    SettingsError
        It would listen where others can come in, and nobody would be asked who he is; or a certificate cannot be used.
    """
    check_listening(settings)
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise SettingsError("ALERTPROD_TLS_CERTIFICATE and ALERTPROD_TLS_KEY belong together: give both or none")
    limits = ConnectionLimits(header_s=settings.header_timeout_s, connections=settings.max_connections)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=protocol_with(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_keep_alive=int(settings.idle_timeout_s),
        timeout_graceful_shutdown=10,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ssl_context_factory=None if settings.tls_certificate is None else _at_least_1_2,
    )
    config.load()
    server = _Server(config, app.state.resources.feed.close)
    app.state.is_stopping = lambda: server.should_exit  # streams without an end must know it: the server waits for them
    return server


class _Server(uvicorn.Server):
    """A server that lets go of those who follow visits when it is told to end: their streams would keep it."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._ending()
        await super().shutdown(sockets)


def run_server(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises
    ------
    SettingsError
        As `make_server`.
    """
    server = make_server(app, settings)
    sys.setswitchinterval(SWITCH_S)
    settle(*FIRST)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(3)


def _at_least_1_2(config: uvicorn.Config, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Return the context with nothing older than TLS 1.2, whatever the system's defaults are."""
    try:
        context = make()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"ALERTPROD_TLS_CERTIFICATE={config.ssl_certfile}, ALERTPROD_TLS_KEY: cannot be used: {error.strerror or error}"
        ) from None
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    return context
