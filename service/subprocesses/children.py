"""How this project starts its own programs as child processes.

``python -m`` would put the working directory first on the path of modules: a folder ``alerts`` or a file ``tasks.py`` there
would be loaded instead of ours. ``-P`` leaves it out; the variable does the same for whatever the child itself starts.
"""

import os
import sys
from typing import IO, TYPE_CHECKING, AnyStr
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["child_environment", "pipe_of", "program", "without_secrets"]

SHORTEST_SECRET = 4  # characters: what is shorter cannot be told from ordinary text


def program(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def pipe_of(pipe: IO[AnyStr] | None) -> IO[AnyStr]:
    """Return a pipe of a process that was started with it.

    Raises
    ------
    ValueError
        It was not.
    """
    if pipe is None:
        raise ValueError("the process was started without this pipe")
    return pipe


def child_environment(settings: "Settings", **more: str) -> dict[str, str]:
    """Return the environment of a child: ours, the settings, and `more` (which wins)."""
    return {**os.environ, **settings.environment(), "PYTHONSAFEPATH": "1", **more}


def without_secrets(text: str, settings: "Settings") -> str:
    """Return `text` with every secret of the settings replaced by asterisks.

    Secret are the URIs of database and registry, the values of Kafka options whose names speak of a secret
    (`service.settings.is_secret_option`), and the passwords (quoted or not) in these and in other addresses.
    """
    secrets = settings.secrets()
    for address in (*secrets, settings.archive_dir, settings.ephemerides_url):
        secrets = [*secrets, *_password(address)]
    for secret in sorted(set(secrets), key=len, reverse=True):  # the longest first: a URI before its password
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "********")
    return text


def _password(uri: str) -> list[str]:
    try:
        password = urlsplit(uri).password
    except ValueError:
        return []
    return [] if password is None else [password, unquote(password)]
