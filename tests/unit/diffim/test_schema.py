"""The schema that the task announces is that of its sources, whatever its options."""

import pandas as pd
import pytest

from diffim import ImageDifferenceTask
from tasks import make_task
from tests.support.detections import GIVEN, apart, search


@pytest.mark.parametrize(
    "options", [{}, {"doReliability": True}, {"doDeblend": True, "doSkySources": True}, {"doFindGlints": False}]
)
def test_sources_have_the_columns_and_types_of_the_schema(options):
    task, table, _ = search(apart((0, 0)).exposure(2.0, 1.0, 4), **options)
    schema = make_task(ImageDifferenceTask, GIVEN | options).getSchemaCatalogs()["diaSrc"]
    assert len(table) >= 20 and len(schema) == 0 and len(schema.columns) > 100
    pd.testing.assert_series_equal(schema.dtypes, table.dtypes)
    pd.testing.assert_series_equal(task.getSchemaCatalogs()["diaSrc"].dtypes, table.dtypes)


def test_without_measurement_there_is_no_schema():
    assert make_task(ImageDifferenceTask, {"doMeasurement": False}).getSchemaCatalogs() == {}
