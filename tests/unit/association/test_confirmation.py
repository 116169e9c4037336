"""Which detections wait for another one of their object."""

import numpy as np
import pandas as pd

from association.confirmation import unconfirmed

OBJECTS = pd.DataFrame({"diaObjectId": [1, 2, 3], "nDiaSources": [1, 2, 7]})
SOURCES = pd.DataFrame(
    {"diaObjectId": [1, 2, 3, 0, 1], "ssObjectId": [0, 0, 0, 9, 0], "snr": [50.0, 5.0, 5.0, 5.0, np.nan]}
)


def test_every_detection_is_an_alert_by_default():
    assert not unconfirmed(SOURCES, OBJECTS).any()
    assert unconfirmed(SOURCES.iloc[:0], OBJECTS.iloc[:0], 2).shape == (0,)


def test_objects_are_confirmed_by_their_sources_and_bodies_need_none():
    assert unconfirmed(SOURCES, OBJECTS, 2).tolist() == [True, False, False, False, True]
    assert unconfirmed(SOURCES, OBJECTS, 3).tolist() == [True, True, False, False, True]


def test_a_bright_detection_is_enough_where_that_is_asked_for():
    assert unconfirmed(SOURCES, OBJECTS, 3, 50.0).tolist() == [False, True, False, False, True]
