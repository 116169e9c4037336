"""Alembic environment: one connection, one transaction for each revision, and a lock so that two runs do not meet."""

from alembic import context
from sqlalchemy import text

from apdb import Database

uri = context.config.attributes["uri"]
engine = Database(uri).engine()
with engine.connect() as connection:
    connection.execute(text("SET lock_timeout = '5s'"))
    connection.execute(text("SELECT pg_advisory_lock(7003)"))
    connection.commit()
    context.configure(connection=connection, transaction_per_migration=True)
    try:
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(7003)"))
        connection.commit()
engine.dispose()
