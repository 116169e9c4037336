"""What servers that run on this machine for demos and tests have in common: a directory, a port, start and stop."""

import shutil
import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["LocalServer", "free_port", "is_free"]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Return whether nobody listens on a TCP port of 127.0.0.1.

    Raises
    ------
    PermissionError
        It is kept for the administrator.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise
        except OSError:
            return False
    return True


@dataclass
class LocalServer(ABC):
    """One server in a directory of its own; use as a context manager or call start and stop.

    Parameters
    ----------
    directory
        Where it keeps its files; made at the start.
    keep
        Leave the directory at the stop.
    port
        TCP port on 127.0.0.1; 0 is replaced by a free one at the start, and kept for the next start.
    """

    directory: Path
    keep: bool = False
    port: int = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> str:
        """Start the server and return where it answers."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server and, unless it is kept, delete its directory."""

    def make_directory(self) -> None:
        """Make the directory where it is missing; its path is absolute from now on."""
        self.directory = self.directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)

    def take_port(self) -> None:
        """Choose a free port where none was given."""
        self.port = self.port or free_port()

    def delete_directory(self) -> None:
        """Delete the directory unless it is kept."""
        if not self.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
