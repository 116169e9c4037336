"""One database for two clients of one interface: ours and the published one."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from lsst.dax.apdb.sql import ApdbSql, ApdbSqlConfig

from apdb import PostgresApdb

__all__ = ["TwoClients", "client_url"]


def client_url(uri: str) -> str:
    """Return a URI as configurations of clients have it."""
    return uri.replace("postgresql://", "postgresql+psycopg2://")


@dataclass
class TwoClients:
    """Our client, the published one, and a raw connection."""

    uri: str
    config: ApdbSqlConfig
    ours: PostgresApdb
    raw: psycopg.Connection[Any]

    @cached_property
    def theirs(self) -> ApdbSql:
        """The published client; it takes a while to read its schema.

        It needs psycopg2: it binds untyped NULLs, which psycopg 3 sends as text.
        """
        plain = ApdbSqlConfig.model_validate({**self.config.model_dump(), "dia_object_index": "baseline"})
        plain.connection_config.connection_pool = False
        return ApdbSql(plain)
