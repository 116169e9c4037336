"""What a table cannot hold as it is, is refused with table, column and row, and nothing of the visit is stored."""

import re

import numpy as np
import pandas as pd
import pytest
from lsst.dax.apdb import DiaObjectId

from apdb.errors import ApdbError, VisitConflict
from tests.support.apdb_rows import at, rows

LAST = 3  # the row that is spoilt


def spoil(frame, column, value):
    """Return the frame with another value in its last row (None of the others changes)."""
    values = frame[column].astype(object).tolist()
    values[LAST] = value
    series = pd.Series(values, index=frame.index, dtype=object)
    return frame.assign(**{column: series if isinstance(value, str) else series.infer_objects()})


# table, column, what comes instead
WRONG = [
    ("DiaObject", "dec", 91.0), ("DiaObject", "dec", -90.001), ("DiaObject", "ra", 1e6), ("DiaObject", "ra", np.nan),
    ("DiaObject", "ra", np.inf), ("DiaObject", "ra", 360.0), ("DiaSource", "ra", -0.1), ("DiaSource", "ra", np.float32(360)),
    ("DiaSource", "midpointMjdTai", -1.0), ("DiaSource", "midpointMjdTai", 100_001.0), ("DiaForcedSource", "band", "w"),
    ("DiaObject", "firstDiaSourceMjdTai", 2_461_000.5), ("DiaObject", "nDiaSources", 2**31),
    ("DiaObject", "nDiaSources", 1.5), ("DiaObject", "diaObjectId", 2**64),
    ("DiaSource", "ra", "10:00:00"), ("DiaSource", "ra", None), ("DiaSource", "dec", "2"), ("DiaSource", "dec", 1e300),
    ("DiaSource", "midpointMjdTai", 2_461_000.5), ("DiaSource", "midpointMjdTai", np.nan),
    ("DiaSource", "psfFlux", 1e300), ("DiaSource", "psfFlux", -np.inf), ("DiaSource", "psfFlux", "bright"),
    ("DiaSource", "x", np.inf), ("DiaSource", "detector", 40_000), ("DiaSource", "visit", "v1"),
    ("DiaSource", "visit", np.nan), ("DiaSource", "band", "clear"), ("DiaSource", "band", "\0"), ("DiaSource", "band", 5),
    ("DiaSource", "band", b"r"), ("DiaSource", "ssObjectId", 2.0**60), ("DiaSource", "isDipole", 2),
    ("DiaSource", "isDipole", "yes"), ("DiaSource", "timeProcessedMjdTai", pd.Timestamp("2026-01-01")),
    ("DiaForcedSource", "psfFlux", np.inf), ("DiaForcedSource", "visit", -1e300), ("DiaForcedSource", "dec", 90.5),
    ("DiaForcedSource", "midpointMjdTai", 1e9), ("DiaForcedSource", "band", "\ud800"),
]  # fmt: skip


def test_what_a_column_cannot_hold_is_refused_by_name(server):
    said = {}
    for table, column, value in WRONG:
        frames = dict(zip(("DiaObject", "DiaSource", "DiaForcedSource"), rows(6), strict=True))
        frames[table] = spoil(frames[table], column, value)
        with pytest.raises(ApdbError) as caught:
            server.ours.store(at(61001.0), *frames.values())
        said[table, column, repr(value)] = str(caught.value)
    wrong = {k: v for k, v in said.items() if not re.search(rf"^{k[0]}\.{k[1]}\b.*row {LAST}\b", v)}
    assert wrong == {}
    for name in ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource", "StoreLedger"):
        assert server.raw.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (0,)


def test_ids_in_floats_are_refused_and_other_whole_numbers_stored_where_exact(server):
    o, s, f = rows(4)
    for name, given in {
        "DiaSource.diaSourceId": (o, s.assign(diaSourceId=s.diaSourceId.astype(float)), f),
        "DiaObject.diaObjectId": (o.assign(diaObjectId=np.arange(1.0, 5.0)), s, f),
        "DiaForcedSource.diaForcedSourceId": (o, s, f.assign(diaForcedSourceId=np.arange(1.0, 5.0, dtype=np.float32))),
    }.items():
        with pytest.raises(ApdbError, match=rf"{name}: row 0 .* expected an integer id: .* no longer exact in floats"):
            server.ours.store(at(61001.0), *given)
    with pytest.raises(ApdbError, match=r"DiaSource\.diaObjectId: row 0 .* no longer exact in floats"):
        server.ours.store(at(61001.0), o, s.assign(diaObjectId=s.diaObjectId.astype(float)), f)
    known = [2.0**53 - 1, np.nan, 5.0, np.nan]  # a column with NULLs, as a join makes it
    server.ours.store(at(61001.0), o, s.assign(ssObjectId=known, diaObjectId=[np.nan, 6.0, np.nan, 7.0]), f)
    stored = server.raw.execute('SELECT "ssObjectId", "diaObjectId" FROM "DiaSource" ORDER BY "diaSourceId"').fetchall()
    assert stored == [(2**53 - 1, None), (None, 6), (5, None), (None, 7)]
    with pytest.raises(ApdbError, match=r"DiaSource\.diaSourceId: row 0 "):
        server.ours.store(at(61002.0), o, s.assign(diaSourceId=s.diaSourceId.astype(np.uint64) + np.uint64(2**63)), f)


def test_an_id_that_another_visit_has_is_refused_whatever_the_month(server):
    o, s, f = rows(4)
    server.ours.store(at(61001.0), o, s, f)
    _, later, forced = rows(4, visit=2)
    ids = later.diaSourceId.to_numpy().copy()
    ids[2] = s.diaSourceId[3]
    again = later.assign(diaSourceId=ids, midpointMjdTai=61101.0)
    with pytest.raises(
        VisitConflict, match=rf"DiaSource\.diaSourceId: row 2 has the id {ids[2]}.* of visit 1, detector 0"
    ):
        server.ours.store(at(61101.0), o, again, forced)
    server.ours.store(at(61101.0), o, again.drop(index=2), forced)  # ids around those of another visit are fine
    assert server.raw.execute('SELECT count(*) FROM "DiaSource"').fetchone() == (7,)


def test_ids_of_forced_sources_are_given_once_too(server):
    """Within a frame, and between visits and months; they have a space of their own, so that a source may have the same number."""
    o, s, f = rows(4)
    ids = f.diaForcedSourceId.to_numpy().copy()
    twice = f.assign(diaForcedSourceId=[ids[0], ids[1], ids[1], ids[3]])
    with pytest.raises(ApdbError, match=rf"DiaForcedSource\.diaForcedSourceId: rows 1 and 2 have the same .* {ids[1]}"):
        server.ours.store(at(61001.0), o, s, twice)
    server.ours.store(at(61001.0), o, s, f.assign(diaForcedSourceId=s.diaSourceId))
    _, later, forced = rows(4, visit=2)
    again = forced.assign(midpointMjdTai=61101.0, diaForcedSourceId=[s.diaSourceId[0] - 1, s.diaSourceId[2], 9, 10])
    with pytest.raises(
        VisitConflict,
        match=rf"DiaForcedSource\.diaForcedSourceId: row 1 has the id {s.diaSourceId[2]}.* of visit 1, detector 0",
    ):
        server.ours.store(at(61101.0), o, later, again)
    server.ours.store(at(61101.0), o, later, again.drop(index=1))
    assert server.raw.execute('SELECT count(*) FROM "DiaForcedSource"').fetchone() == (7,)


def test_columns_that_the_tables_do_not_have_are_refused(server):
    o, s, f = rows(4)
    with pytest.raises(ApdbError, match=r"DiaSource\.psfflux: .* no such column \(did you mean psfFlux\?\)"):
        server.ours.store(at(61001.0), o, s.assign(psfflux=1.0), f)


def test_the_same_id_twice_is_refused_with_both_rows(server):
    o, s, f = rows(4)
    twice = {"diaSourceId": s, "diaObjectId": o}
    for name, frame in twice.items():
        ids = frame[name].to_numpy().copy()
        ids[2] = ids[1]
        given = (o, s.assign(**{name: ids}), f) if frame is s else (o.assign(**{name: ids}), s, f)
        with pytest.raises(ApdbError, match=rf"{name}: rows 1 and 2 have the same {name} {ids[1]}"):
            server.ours.store(at(61001.0), *given)
    again = pd.concat([f, f.iloc[:1]], ignore_index=True)
    with pytest.raises(ApdbError, match=r"DiaForcedSource\.diaObjectId: rows 0 and \d+ have the same"):
        server.ours.store(at(61001.0), o, s, again)
    assert server.raw.execute('SELECT count(*) FROM "DiaSource"').fetchone() == (0,)


def test_a_column_that_is_needed_and_a_time_that_is_none(server):
    o, s, f = rows(4)
    with pytest.raises(ApdbError, match=r"DiaSource\.midpointMjdTai .* no such column"):
        server.ours.store(at(61001.0), o, s.drop(columns=["midpointMjdTai"]), f)
    with pytest.raises(ApdbError, match=r"astropy\.time\.Time, got 61001\.0"):
        server.ours.store(61001.0, o, s, f)
    with pytest.raises(ApdbError, match="expected an MJD"):
        server.ours.store(at(2_461_000.5), o, s, f)


def test_limits_that_are_right_are_stored_as_they_are(server):
    o, s, f = rows(4)
    largest = float(np.finfo(np.float32).max)
    s = s.assign(
        ra=[0.0, np.nextafter(360.0, 0.0), 1e-300, 359.9],
        dec=[90.0, -90.0, 0.0, 89.9],
        psfFlux=[largest, -largest, np.nan, 0.0],
    )
    server.ours.store(at(61001.0), o, s, f)
    stored = server.raw.execute('SELECT ra, "dec", "psfFlux" FROM "DiaSource" ORDER BY "diaSourceId"').fetchall()
    assert [r[:2] for r in stored] == list(zip(s.ra, s.dec, strict=True))
    assert [r[2] for r in stored] == [np.float32(largest), -np.float32(largest), None, 0.0]


@pytest.mark.parametrize("replace", [False, True])
def test_what_does_not_fit_what_is_stored_is_refused_by_name(server, replace):
    o, s, f = rows(6)
    server.ours.store(at(61001.0), o, s, f)
    later = rows(6, visit=2)
    if replace:  # then its objects are made anew, and what comes is held against them
        server.ours.store(at(61001.5), o, later[1], later[2])
    of_visit = (
        'SELECT (SELECT count(*) FROM "DiaSource" WHERE visit = 2 AND "timeWithdrawnMjdTai" IS NULL), (SELECT '
        'count(*) FROM "DiaForcedSource" WHERE visit = 2), (SELECT max("validityStartMjdTai") FROM "DiaObject")'
    )
    before = server.raw.execute(of_visit).fetchone()

    def said(objects=o, sources=later[1], forced=later[2], mjd=61002.0):
        with pytest.raises(ApdbError) as caught:
            server.ours.store(at(mjd), objects, sources, forced, replace=replace)
        return str(caught.value)

    far, moved = o.copy(), o.copy()
    far.loc[LAST, "ra"] -= 60.0
    moved.loc[LAST, "dec"] += 5.1
    number = o.diaObjectId[LAST]
    assert re.search(rf"^DiaObject\.ra: row {LAST} .*{number}", said(far))
    assert re.search(rf"^DiaObject\.dec: row {LAST} .*{number}", said(moved))
    nobody = later[2].copy()
    nobody.loc[LAST, "diaObjectId"] = 77
    assert re.search(rf"^DiaForcedSource\.diaObjectId: row {LAST} holds 77\b", said(forced=nobody))
    for table, frames in (("DiaSource", {"forced": None}), ("DiaForcedSource", {"sources": None})):
        assert re.search(rf"^{table}\.midpointMjdTai: row 0 ", said(**frames, mjd=61002.0 - 30 * 365.25))
    assert server.raw.execute(of_visit).fetchone() == before
    near = o.assign(dec=o.dec + 4.9)
    server.ours.store(at(61002.0), near, later[1], later[2], replace=replace)
    alone = rows(6, visit=3)[2]  # measured only: their objects are stored
    server.ours.store(at(61003.0), o[:0], None, alone, replace=replace)
    assert server.raw.execute('SELECT count(*) FROM "DiaForcedSource" WHERE visit = 3').fetchone() == (6,)


def test_a_closed_object_comes_again_where_it_was(server):
    o, s, f = rows(6)
    server.ours.store(at(61001.0), o, s, f)
    server.ours.setValidityEnd([DiaObjectId.from_named_tuple(r) for r in o.itertuples()], at(61001.5))
    _, sources, forced = rows(6, visit=2)
    far = o.copy()
    far.loc[LAST, "ra"] -= 60.0
    with pytest.raises(ApdbError, match=rf"^DiaObject\.ra: row {LAST} .*{o.diaObjectId[LAST]}"):
        server.ours.store(at(61002.0), far, sources, forced)
    assert server.raw.execute('SELECT count(*) FROM "DiaSource" WHERE visit = 2').fetchone() == (0,)
    server.ours.store(at(61001.2), o, sources, forced)  # before it was closed: it begins again when it ended
    begins = 'SELECT DISTINCT "validityStartMjdTai" FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL'
    assert server.raw.execute(begins).fetchall() == [(61001.5,)]
