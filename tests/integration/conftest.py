"""A database for two clients of one interface."""

from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from lsst.dax.apdb.sql import ApdbSql, ApdbSqlConfig

from apdb import PostgresApdb


@pytest.fixture
def server(postgres, monkeypatch):
    """A fresh database with our tables: our client, the published one, and a raw connection."""
    monkeypatch.setenv("LSST_DB_AUTH", "/nonexistent")
    admin, name = postgres.uri.rsplit("/", 1)[0], f"p{uuid4().hex}"
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute(f"CREATE DATABASE {name}")
    url = f"{admin}/{name}".replace("postgresql://", "postgresql+psycopg2://")
    config = PostgresApdb.init_database(url)
    ours = PostgresApdb(config)
    # the published client needs psycopg2: it binds untyped NULLs, which psycopg 3 sends as text
    plain = ApdbSqlConfig.model_validate({**config.model_dump(), "dia_object_index": "baseline"})
    plain.connection_config.connection_pool = False
    with psycopg.connect(f"{admin}/{name}", autocommit=True) as raw:
        yield SimpleNamespace(ours=ours, theirs=ApdbSql(plain), raw=raw, uri=f"{admin}/{name}", config=config)
    ours.close()
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute(f"DROP DATABASE {name} WITH (FORCE)")
