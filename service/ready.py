"""What every role and every command on the database makes sure of at its start: settings, folders, the schema."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from apdb import Database
from apdb.errors import DatabaseUnavailable
from service.errors import SettingsError
from service.settings import PREFIX, Settings

__all__ = ["prepare_folders", "ready_role"]

WAIT_S, PAUSE_S = 20.0, 1.0
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def ready_role(
    settings: Settings,
    say: Callable[[str], None],
    *,
    kafka: bool = False,
    folders: tuple[str, ...] = (),
    wait_s: float = WAIT_S,
) -> Settings:
    """Return the settings when a role can start with them.

    Parameters
    ----------
    say
        Told while the database is waited for (it may start at the same time).
    kafka
        The role needs brokers.
    folders
        Settings that name directories in which the role writes.

    Raises
    ------
    SettingsError
        A setting that is needed is empty, or a directory cannot be made or written.
    SchemaMismatch
        The database is empty, older or newer: the message has the command to run.
    DatabaseUnavailable
        No answer within `wait_s`.
    """
    settings.need("database_uri", *(("kafka_brokers", "alert_topic", "visit_topic") if kafka else ()))
    if kafka:
        _check_topics(settings)
    prepare_folders(settings, folders)
    database, deadline = Database(settings.database()), time.monotonic() + wait_s
    while True:
        try:
            database.check_schema()
            return settings
        except DatabaseUnavailable as error:
            if time.monotonic() + PAUSE_S > deadline:
                raise
            say(f"waiting for the database: {error}")
            time.sleep(PAUSE_S)


def _check_topics(settings: Settings) -> None:
    """Refuse names that Kafka does not take, and two that are one: the ingest would read alerts as visits.

    Raises
    ------
    SettingsError
        With the settings that must be others.
    """
    from alertprod_client.corrections import correction_topic  # loads Avro, which commands on the database need not

    alert, visit = settings.alert_topic, settings.visit_topic
    given = f"{PREFIX}ALERT_TOPIC, {PREFIX}VISIT_TOPIC, {PREFIX}ALERT_FAN_OUT"
    ours = [alert, f"{alert}.progress", correction_topic(alert), *settings.alert_fan_out, visit, f"{visit}.dlq"]
    for name in ours:
        if not _TOPIC.fullmatch(name) or name in (".", ".."):
            raise SettingsError(f"{given}: {name!r} is no name of a topic: letters, digits and . _ -, at most 249")
        if ours.count(name) > 1:
            raise SettingsError(f"{given}: {name!r} would be two topics at once: give each a name of its own")


def prepare_folders(settings: Settings, names: tuple[str, ...]) -> None:
    """Make the directories of settings where they are missing; URLs and empty settings are passed over.

    Raises
    ------
    SettingsError
        One cannot be made, or cannot be written: the message names the setting.
    """
    for name in names:
        value = getattr(settings, name)
        if value is None or "://" in str(value) or "::" in str(value):
            continue
        folder, what = Path(value), f"{PREFIX}{name.upper()}={value}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"{what}: the directory cannot be made: {error.strerror} ({error.filename})") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(f"{what}: this process may not write there: give it the right, or name another place")
