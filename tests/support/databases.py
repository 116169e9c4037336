"""Databases of tests on the PostgreSQL that they share: copies of one that has the tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg

__all__ = ["copied_database"]


@contextmanager
def copied_database(template: str) -> Iterator[str]:
    """Copy the database of a URI under a name of its own, give the URI of the copy, and drop it."""
    server, name = template.rsplit("/", 1)
    copy = f"t{uuid4().hex}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {copy} TEMPLATE {name}")
    yield f"{server}/{copy}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {copy} WITH (FORCE)")
