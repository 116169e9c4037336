"""Database migrations (Alembic): up to the newest revision, or down; what is pending."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from apdb import Database
from apdb.errors import BadQuery, SchemaMismatch
from apdb.operate.archive_notes import note_missing
from apdb.schema.setup import finish_schema

__all__ = ["migrate", "pending"]


def _config(uri: str) -> Config:
    import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["uri"] = uri
    return config


def _current(uri: str) -> str | None:
    engine = Database(uri).engine()
    try:
        with engine.connect() as connection:
            revision: str | None = MigrationContext.configure(connection).get_current_revision()
            return revision
    finally:
        engine.dispose()


def pending(uri: str, revision: str = "head") -> list[dict[str, Any]]:
    """Return the steps from where the database is to a revision, in order: revision, direction, what it does.

    Raises
    ------
    SchemaMismatch
        A newer program made the database.
    BadQuery
        No such revision.
    """
    scripts = ScriptDirectory.from_config(_config(uri))
    order = [s.revision for s in reversed(list(scripts.walk_revisions()))]
    now = _current(uri)
    if now is not None and now not in order:
        raise SchemaMismatch(f"the database is at revision {now}, made by a newer program: update alertprod")
    if revision not in ("head", "base", *order):
        raise BadQuery(f"no revision {revision!r}: head, base, or one of {', '.join(order)}")
    begin = 0 if now is None else order.index(now) + 1
    end = {"head": len(order), "base": 0}.get(revision)
    end = order.index(revision) + 1 if end is None else end
    names = order[begin:end] if end >= begin else order[end:begin][::-1]
    direction = "up" if end >= begin else "down"
    return [
        {"revision": n, "direction": direction, "what": (scripts.get_revision(n).doc or "").rstrip(".")} for n in names
    ]


def migrate(uri: str, revision: str = "head") -> list[str]:
    """Bring the database to a revision (``head``, ``base``, or a name).

    Returns
    -------
    unread : `list` [`str`]
        Months that older versions archived, and whose files cannot be read here and now: ``alertprod apdb renew`` tries again.
    """
    config, steps = _config(uri), pending(uri, revision)
    if steps and steps[0]["direction"] == "down":
        command.downgrade(config, revision)
        return []
    command.upgrade(config, revision)
    if revision != "head":
        return []
    with Database(uri).session() as connection:
        finish_schema(connection)
        return note_missing(connection)
