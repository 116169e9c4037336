"""Whether the tables of a database are there is asked again and again: that must cost next to nothing."""

import gc

import pytest

from apdb.errors import InconsistentSchemaError
from apdb.schema.presence import check_tables


class EmptyDatabase:
    """Answers every question with no rows."""

    def execute(self, *_):
        return self

    def fetchall(self):
        return []


def test_a_look_at_the_tables_leaves_nothing_to_be_collected():
    def look():
        with pytest.raises(InconsistentSchemaError, match="no table DiaForcedSource"):
            check_tables(EmptyDatabase())

    look()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            look()
        assert gc.collect() < 1000  # the tables of SQLAlchemy are seven thousand objects, each time
    finally:
        gc.enable()
