"""ADQL, the query language of the Virtual Observatory: what of it is understood becomes one SELECT on a documented table.

Nothing of a text reaches the database as text: names are those of the tables that are listed, values are literals.
"""

from apdb.adql.select import ADQL_TABLES, adql_query

__all__ = ["ADQL_TABLES", "adql_query"]
