"""The forced sources whose fit lacked light, by the flags beside them; an index holds these rows alone."""

from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.decode import select_frame
from apdb.copy.encode import id_array
from apdb.schema.columns import Column
from tasks.arrays import I64
from tasks.lacking import LACKING_BITS

__all__ = ["lacking_of"]

_KEY = (Column("diaObjectId", "long", False), Column("visit", "long", False), Column("detector", "short", False))


def lacking_of(connection: psycopg.Connection[Any], object_ids: I64) -> pd.DataFrame:
    """Return diaObjectId, visit, detector of the forced sources of objects, ids of shape (N,), that lack light (`tasks.lacking`)."""
    # the condition is that of the index, word for word: so the planner knows that it may be used
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[]) AND (t.flags & {}) <> 0').format(
        sql.Literal(LACKING_BITS)
    )
    return select_frame(connection, "DiaForcedSourceFlags", _KEY, rest, (id_array(object_ids),))
