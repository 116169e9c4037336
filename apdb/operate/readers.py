"""A read-only role for dashboards and notebooks: views only, a time limit on every statement, capped functions."""

from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from apdb.errors import ApdbError
from apdb.rows import single_row
from apdb.schema.view_columns import VIEWS

__all__ = ["make_reader"]


def make_reader(
    connection: psycopg.Connection[Any], role: str, password: str | None, *, timeout_s: int = 30, connections: int = 10
) -> None:
    """Make or renew a login role that may read the views and call the capped functions, and nothing else.

    Its sessions are read-only, its statements end after `timeout_s`, sorts spill no more than 1 GB.

    Raises
    ------
    ApdbError
        The connection may not make roles.
    """
    name = sql.Identifier(role)
    try:
        with connection.transaction():
            exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = sql.SQL("ALTER" if exists else "CREATE")
            secret = sql.SQL("") if password is None else sql.SQL("PASSWORD {}").format(sql.Literal(password))
            connection.execute(
                sql.SQL(
                    "{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT {} {}"
                ).format(verb, name, sql.Literal(connections), secret)
            )
            for setting, value in (
                ("default_transaction_read_only", "on"),
                ("statement_timeout", f"{timeout_s}s"),
                ("idle_in_transaction_session_timeout", "60s"),
                ("temp_file_limit", "1GB"),
                ("jit", "off"),
            ):
                connection.execute(
                    sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
                )
            (schema,) = single_row(connection.execute("SELECT current_schema()"))
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), name))
            connection.execute((files("apdb.operate") / "reader_functions.sql").read_text(encoding="utf-8"))
            for view in VIEWS:
                connection.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(view), name))
            for function in ("object_light_curve(bigint, integer)", "visit_sources(bigint, integer, integer)"):
                connection.execute(sql.SQL("REVOKE ALL ON FUNCTION {} FROM PUBLIC").format(sql.SQL(function)))
                connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(function), name))
    except psycopg.errors.InsufficientPrivilege as error:
        raise ApdbError(f"the database user may not make roles: {str(error).splitlines()[0]}") from error
