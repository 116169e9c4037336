"""The first of the times of each object."""

import numpy as np

from apdb.visit.late import earliest


def test_each_object_has_the_first_of_its_times_whatever_their_order():
    found = earliest(np.array([7, 3, 7, 3, 9]), np.array([61005.0, 61002.0, 61001.0, 61004.0, 61000.0]))
    assert found.to_dict() == {3: 61002.0, 7: 61001.0, 9: 61000.0}
    assert earliest(np.zeros(0, np.int64), np.zeros(0)).empty
