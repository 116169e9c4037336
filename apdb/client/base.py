"""What the parts of the published client share: configuration, versions, connections, what the database is."""

import contextlib
import logging
from functools import cached_property
from typing import Any

from lsst.dax.apdb import Apdb, ApdbMetadata, ApdbTables, IncompatibleVersionError, VersionTuple
from lsst.dax.apdb.apdbConfigFreezer import ApdbConfigFreezer
from lsst.dax.apdb.apdbSchema import ApdbSchema
from lsst.dax.apdb.schema_model import Table
from lsst.dax.apdb.sql import ApdbSqlConfig
from lsst.dax.apdb.sql.apdbMetadataSql import ApdbMetadataSql
from lsst.dax.apdb.sql.apdbSqlSchema import InconsistentSchemaError as PublishedInconsistentSchemaError
from lsst.utils.db_auth import DbAuth, DbAuthNotFoundError

from apdb import errors
from apdb.database import Database
from apdb.errors import ApdbError
from apdb.replication.replica import PostgresReplica
from apdb.rows import single_row
from apdb.schema.columns import published_schema
from apdb.schema.partitions import PartitionKeeper
from apdb.schema.setup import APDB_SQL_VERSION
from apdb.schema.tables import make_metadata
from apdb.transactions import Transactions

__all__ = ["FROZEN", "LOG", "ClientBase", "InconsistentSchemaError"]

LOG = logging.getLogger("lsst.dax.apdb.alertprod")
_CONFIG_KEY = "config:apdb-sql.json"
_LAYOUT: dict[str, Any] = {
    "dia_object_index": "last_object_table", "htm_level": 20, "htm_index_column": "pixelId",
    "ra_dec_columns": ("ra", "dec"), "prefix": "", "connection_timeout": None,
}  # fmt: skip
FROZEN = (
    "enable_replica",
    "dia_object_index",
    "pixelization.htm_level",
    "pixelization.htm_index_column",
    "ra_dec_columns",
)


def _libpq_uri(db_url: str) -> str:
    """Return the libpq form of an SQLAlchemy URL, with credentials of the db-auth file where it has none."""
    with contextlib.suppress(DbAuthNotFoundError):
        db_url = DbAuth().getUrl(db_url)
    scheme, _, rest = db_url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ApdbError(f"no client for a database of scheme {scheme!r}: use postgresql://")
    return f"postgresql://{rest}"


class InconsistentSchemaError(errors.InconsistentSchemaError, PublishedInconsistentSchemaError):
    """As the published client has it: the tables are missing, or not those of the schema."""


class ClientBase(Apdb):
    """Configuration and connections of the client (parameters and errors: see `PostgresApdb`)."""

    def __init__(self, config: ApdbSqlConfig | str) -> None:
        if isinstance(config, str):
            config = ApdbSqlConfig(db_url=config)
        if config.prefix:
            raise ApdbError("table prefixes are not supported: use a namespace")
        self.database = Database(_libpq_uri(config.db_url), namespace=config.namespace)
        self._transactions = Transactions(self.database)
        self._published = published_schema(config.schema_file)
        items = self._check_versions()
        self.config = ApdbConfigFreezer[ApdbSqlConfig](FROZEN).update(config, items[_CONFIG_KEY])
        self._partitions = PartitionKeeper()

    @classmethod
    def init_database(
        cls,
        db_url: str,
        *,
        schema_file: str | None = None,
        ss_schema_file: str | None = None,
        read_sources_months: int | None = None,
        read_forced_sources_months: int | None = None,
        enable_replica: bool = False,
        namespace: str | None = None,
        drop: bool = False,
        **layout: Any,
    ) -> ApdbSqlConfig:
        """Make all tables and return the configuration that opens them.

        The arguments are those of the published SQL client. Those that shape its tables (`dia_object_index`, `htm_level`,
        `htm_index_column`, `ra_dec_columns`, `prefix`) have one value here.

        Raises
        ------
        ApdbError
            Another value was asked for, or an argument that does not exist.
        """
        for name, value in layout.items():
            if name not in _LAYOUT:
                raise ApdbError(f"init_database has no argument {name!r}")
            if value is not None and value != _LAYOUT[name]:
                raise ApdbError(f"{name} is {_LAYOUT[name]!r} in these tables; {value!r} is not supported")
        given = {
            "schema_file": schema_file,
            "ss_schema_file": ss_schema_file,
            "read_sources_months": read_sources_months,
            "read_forced_sources_months": read_forced_sources_months,
        }
        config = ApdbSqlConfig(
            db_url=db_url,
            enable_replica=enable_replica,
            namespace=namespace,
            dia_object_index=_LAYOUT["dia_object_index"],
            **{k: v for k, v in given.items() if v is not None},
        )
        database = Database(_libpq_uri(db_url), namespace=namespace)
        database.create(published_schema(config.schema_file), replica=enable_replica, drop=drop)
        return config

    def _check_versions(self) -> dict[str, str]:
        items, label = self.database.metadata(), self.database.label
        if items is None:
            raise InconsistentSchemaError(f"database {label} is empty: run 'alertprod apdb create'")
        if "version:alertprod" not in items:
            raise InconsistentSchemaError(
                f"the tables of {label} were made by another client: run 'alertprod apdb create' on an empty database or "
                "namespace"
            )
        for key, ours in (("version:schema", self._published.version), ("version:ApdbSql", APDB_SQL_VERSION)):
            theirs = items.get(key)
            if theirs is None:
                raise InconsistentSchemaError(f"{label}: version key {key!r} does not exist in metadata table")
            if not VersionTuple.fromString(ours).checkCompatibility(VersionTuple.fromString(theirs)):
                raise IncompatibleVersionError(f"{key} is {theirs} in the database, this client has {ours}")
        if _CONFIG_KEY not in items:
            raise InconsistentSchemaError(f"{label}: key {_CONFIG_KEY!r} does not exist in metadata table")
        try:
            self.database.check_tables(self._published)
        except errors.InconsistentSchemaError as error:
            raise InconsistentSchemaError(f"{label}: {error.message}") from error
        return items

    def getConfig(self) -> ApdbSqlConfig:
        """Return the configuration, with what the database has frozen."""
        return self.config

    @cached_property
    def schema(self) -> ApdbSchema:
        """Published schema."""
        return ApdbSchema(self.config.schema_file, self.config.ss_schema_file)

    def tableDef(self, table: ApdbTables) -> Table | None:
        """Return the published definition of a table, None when it has none."""
        return self.schema.tableSchemas.get(table)

    @cached_property
    def metadata(self) -> ApdbMetadata:
        """Keys and values kept in the database."""
        return ApdbMetadataSql(self.database.engine(), make_metadata(self._published).tables["metadata"])

    def get_replica(self) -> PostgresReplica:
        """Return the replication interface of this database."""
        return PostgresReplica(self._transactions, self._published, self.config.enable_replica)

    def tableRowCount(self) -> dict[str, int]:
        """Return the number of rows by table."""
        tables = ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource")
        counts = ", ".join(f'(SELECT count(*) FROM "{t}")' for t in tables)
        row = self._transactions.run(lambda c: single_row(c.execute(f"SELECT {counts}")))
        return dict(zip(tables, row, strict=True))

    def close(self) -> None:
        """Close all connections."""
        self._transactions.close()
