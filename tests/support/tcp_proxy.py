"""A proxy before a server on this machine, for faults of a network: slow, narrow, standing still, cut, refusing."""

import math
import socket
import threading
import time
from contextlib import contextmanager, suppress

__all__ = ["Proxy", "proxied"]


class Proxy:
    """Hands on what comes; what is set takes effect at once, also for connections that are open.

    `delay_s` is that of each piece in each direction, `bytes_per_s` the width of a connection in each direction; while it is
    `stalled` nothing moves and sockets stay open, and new ones are taken; while it is `refusing` those are closed at once.
    """

    def __init__(self, port):
        self.delay_s, self.bytes_per_s = 0.0, math.inf
        self.stalled = self.refusing = False
        self._target, self._sockets, self._lock = ("127.0.0.1", port), set(), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    def _hand_on(self, source, sink):
        with suppress(OSError):
            while data := source.recv(512 if self.bytes_per_s < math.inf else 65536):
                time.sleep(self.delay_s + len(data) / self.bytes_per_s)
                while self.stalled and not self._closed:
                    time.sleep(0.02)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._sockets -= {source, sink}

    def cut(self):
        """End every connection, as a firewall does."""
        with self._lock:
            for end in self._sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def heal(self):
        """Hand on as if nothing had been."""
        self.delay_s, self.bytes_per_s, self.stalled, self.refusing = 0.0, math.inf, False, False

    def close(self):
        """End."""
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


@contextmanager
def proxied(uri):
    """Give the proxy of a database and the URI behind it."""
    head, _, name = uri.rpartition("/")
    address, _, port = head.rpartition(":")
    proxy = Proxy(int(port))
    try:
        yield proxy, f"{address}:{proxy.port}/{name}"
    finally:
        proxy.close()
