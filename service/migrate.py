"""Database migrations (Alembic): up to the newest revision, or down."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from apdb import Database
from apdb.setup import finish_schema

__all__ = ["migrate"]


def migrate(uri: str, revision: str = "head") -> None:
    """Bring the database to a revision (``head``, ``base``, or a name)."""
    import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["uri"] = uri
    if revision == "base":
        command.downgrade(config, revision)
        return
    command.upgrade(config, revision)
    with Database(uri).session() as connection:
        finish_schema(connection)
