"""The version of the tables, by which a program refuses a database that it does not know."""

from pathlib import Path

import migrations
from apdb.schema.setup import DATABASE_VERSION


def test_the_version_of_the_tables_is_the_number_of_the_newest_migration():
    newest = max((Path(migrations.__file__).parent / "versions").glob("r*.py"))
    assert int(DATABASE_VERSION) == int(newest.stem[1:5])
