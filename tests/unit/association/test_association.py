"""association/: matching, new objects, statistics, solar system, forced selection."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apdb import empty_frame
from association import associate, filter_new_sources, match_solar_system, pair_scores, summarize
from association.errors import AssociationError, DuplicateRecords
from association.forced_rows import ForcedRules, qualified_objects
from association.new_objects import NewSourceRules
from association.solar_system import pack_designation, ss_object_id

ARCSEC = 1 / 3600
EXAMPLES = int(os.environ.get("ALERTPROD_ASSOCIATIONS", "150"))


def sources(ra, dec, start=101, err=0.1 * ARCSEC):
    n = len(ra)
    return pd.DataFrame(
        {
            "diaSourceId": np.arange(start, start + n),
            "ra": ra,
            "dec": dec,
            "raErr": np.full(n, err),
            "decErr": np.full(n, err),
            "diaObjectId": np.zeros(n, np.int64),
        }
    )


def objects(ra, dec, err=0.1 * ARCSEC):
    n = len(ra)
    return pd.DataFrame({"diaObjectId": np.arange(1, n + 1), "ra": ra, "dec": dec, "raErr": np.full(n, err),
                         "decErr": np.full(n, err)})  # fmt: skip


def test_grid_with_scatter():
    grid = 0.04 * np.arange(5.0)
    o = objects(grid, grid)
    s = sources(np.append(grid[1:], 3.0) + 0.1 * ARCSEC, np.append(grid[1:], 3.0))
    r = associate(s, o)
    assert r.diaSources.diaObjectId.tolist() == [2, 3, 4, 5, 0]
    assert (r.nUpdatedDiaObjects, r.nUnassociatedDiaObjects) == (4, 1)
    r = associate(s, o.iloc[:0])
    assert (r.diaSources.diaObjectId == 0).all()
    assert (r.nUpdatedDiaObjects, r.nUnassociatedDiaObjects) == (0, 0)


def test_radius_is_the_sole_gate():
    o = objects([10.0], [0.0], err=0.001 * ARCSEC)
    assert associate(sources([10.0], [0.99999 * ARCSEC]), o).nUpdatedDiaObjects == 1
    assert associate(sources([10.0], [1.00001 * ARCSEC]), o).nUpdatedDiaObjects == 0


def test_score_is_the_negative_log_likelihood():
    p = pair_scores(sources([10.0], [0.0], err=np.nan), objects([10.0], [0.05 * ARCSEC]))
    assert p.score[0] == pytest.approx(p.separation[0] / 206264.806, rel=1e-6)  # one table without errors: the chord
    p = pair_scores(sources([10.0], [60.0]), objects([10.0 + 0.1 * ARCSEC / np.cos(np.radians(60))], [60.0]))
    v = 2 * (0.1 * ARCSEC) ** 2
    assert p.score[0] == pytest.approx(0.5 * (0.1 * ARCSEC) ** 2 / v + np.log(v), abs=1e-5)  # errors are on the sky
    floor = pair_scores(sources([10.0], [0.0], err=1e-9), objects([10.0], [0.0], err=1e-9)).score[0]
    assert floor == pytest.approx(np.log((0.05 * ARCSEC) ** 2))


def test_wrap_and_pole():
    assert associate(sources([359.99999], [0.0]), objects([0.00001], [0.0])).nUpdatedDiaObjects == 1
    assert associate(sources([180.0], [89.9999]), objects([0.0], [89.9999])).nUpdatedDiaObjects == 1
    p = pair_scores(sources([180.0], [89.9999]), objects([0.0], [89.9999]))
    assert p.separation[0] == pytest.approx(0.72, abs=1e-6)
    v = 2 * (0.1 * ARCSEC) ** 2
    assert p.score[0] == pytest.approx(0.5 * (0.72 * ARCSEC) ** 2 / v + np.log(v), rel=1e-3)


def test_contention_takes_the_second_best():
    o = objects([10.0, 10.0 + 0.6 * ARCSEC], [0.0, 0.0])
    s = sources([10.0 + 0.05 * ARCSEC, 10.0 + 0.25 * ARCSEC], [0.0, 0.0])
    assert associate(s, o).diaSources.diaObjectId.tolist() == [1, 2]
    one = objects([10.0], [0.0])
    assert associate(s, one).diaSources.diaObjectId.tolist() == [1, 0]


def test_types_and_missing_positions():
    o, s = objects([10.0], [0.0]), sources([10.0, np.nan], [0.0, 0.0])
    assert associate(s, o).diaSources.diaObjectId.tolist() == [1]  # without a position there is no result
    big = o.assign(diaObjectId=np.array([2**62 + 12345], np.int64))
    assert associate(s, big).diaSources.diaObjectId[0] == 2**62 + 12345
    with pytest.raises(AssociationError, match="integer"):
        associate(s, o.assign(diaObjectId=[1.0]))


def test_unsigned_ids_keep_their_type_and_objects_without_position_are_left_out():
    o = objects([10.0, np.nan], [0.0, 0.0])
    wide = o.assign(diaObjectId=np.array([2**63 + 5, 2**63 + 6], np.uint64))
    r = associate(sources([10.0], [0.0]), wide)
    assert r.diaSources.diaObjectId.dtype == np.uint64 and int(r.diaSources.diaObjectId[0]) == 2**63 + 5
    assert r.nUnassociatedDiaObjects == 1
    assert associate(sources([10.0], [0.0]), o).diaSources.diaObjectId.dtype == np.int64


def test_fallback_error_changes_the_score_and_not_who_is_a_candidate():
    s, o = sources([10.0], [0.0]), objects([10.0], [0.8 * ARCSEC])
    s.loc[1], o.loc[1] = [200, 50.0, 0.0, 0.1 * ARCSEC, 0.1 * ARCSEC, 0], [9, 60.0, 0.0, 0.1 * ARCSEC, 0.1 * ARCSEC]
    s.loc[0, ["raErr", "decErr"]] = np.nan
    o.loc[0, ["raErr", "decErr"]] = 0.0  # no error either
    s, o = s.astype({"diaSourceId": int, "diaObjectId": int}), o.astype({"diaObjectId": int})
    found = {sigma: pair_scores(s, o, fallback_sigma_arcsec=sigma) for sigma in (0.2, 0.8)}
    for sigma, p in found.items():
        v = 2 * (sigma * ARCSEC) ** 2
        assert len(p) == 1 and p.score[0] == pytest.approx(0.5 * (0.8 * ARCSEC) ** 2 / v + np.log(v))
    assert found[0.2].score[0] - np.log(2 * (0.2 * ARCSEC) ** 2) == pytest.approx(4.0)
    floored = pair_scores(
        sources([10.0], [0.0], err=1e-9), objects([10.0], [0.1 * ARCSEC], err=1e-9), sigma_floor_arcsec=0.1
    )
    assert floored.score[0] == pytest.approx(0.5 + np.log((0.1 * ARCSEC) ** 2))


def test_a_tight_object_beats_a_loose_one_and_errors_of_nobody_mean_distance():
    s = sources([10.0], [0.0])
    o = objects([10.0, 10.0], [0.25 * ARCSEC, -0.25 * ARCSEC])
    o.loc[1, ["raErr", "decErr"]] = 0.6 * ARCSEC
    assert associate(s, o).diaSources.diaObjectId.tolist() == [1]
    far = objects([10.0], [0.9 * ARCSEC], err=0.05 * ARCSEC)  # ten of its errors away, but inside the radius
    assert associate(sources([10.0], [0.0], err=0.05 * ARCSEC), far).nUpdatedDiaObjects == 1
    for lost in (o.drop(columns=["raErr", "decErr"]), o.assign(raErr=np.nan, decErr=np.nan)):
        p = pair_scores(s, lost)
        assert p.score.to_numpy() == pytest.approx(p.separation.to_numpy() / 206264.806, rel=1e-6)
    assert pair_scores(sources([20.0], [0.0]), o).empty


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
def test_never_worse_than_brute_force_and_independent_of_order(n, m, seed, errors):
    """No match costs the largest score and 1 where there are errors, 1.01 radii where distances are compared."""
    rng, error = np.random.default_rng(seed), 0.1 * ARCSEC if errors else np.nan
    o = objects(10 + rng.uniform(0, 1.2, m) * ARCSEC, rng.uniform(0, 1.2, m) * ARCSEC, error)
    s = sources(10 + rng.uniform(0, 1.2, n) * ARCSEC, rng.uniform(0, 1.2, n) * ARCSEC, err=error)
    table = pair_scores(s, o)
    # distances in radii: the sums to be compared are of order one
    pairs = table.set_index(["diaSourceId", "diaObjectId"])["score" if errors else "separation"]
    refuse = (pairs.max() + 1 if len(pairs) else 1.0) if errors else 1.01
    lowest = 0.0

    costs = np.full((n, m + 1), np.inf)  # the last column is "no object"
    costs[:, m] = refuse
    for (i, k), score in pairs.items():
        costs[s.diaSourceId.tolist().index(i), o.diaObjectId.tolist().index(k)] = score - lowest
    got = associate(s, o).diaSources.diaObjectId.tolist()
    chosen = [o.diaObjectId.tolist().index(k) if k else m for k in got]
    everything = np.indices((m + 1,) * n).reshape(n, -1).T
    taken = np.sort(everything, axis=1)
    allowed = ~((np.diff(taken, axis=1) == 0) & (taken[:, 1:] < m)).any(axis=1)
    best = costs[np.arange(n), everything[allowed]].sum(axis=1).min()
    assert costs[np.arange(n), chosen].sum() == pytest.approx(best, abs=1e-6)
    shuffled = associate(s.sample(frac=1, random_state=seed), o.sample(frac=1, random_state=seed)).diaSources
    assert shuffled.sort_values("diaSourceId").diaObjectId.tolist() == got


def test_new_sources_are_filtered_by_flags_and_thresholds():
    s = empty_frame("DiaSource").reindex(range(4))
    s["diaSourceId"] = np.arange(4)
    for c in NewSourceRules().bad_flags:
        s[c] = False
    s["apFlux"], s["apFluxErr"], s["reliability"] = [100.0, 3.0, 100.0, np.nan], 1.0, [0.9, 0.9, 0.05, np.nan]
    s.loc[0, "pixelFlags_crCenter"] = True
    split = filter_new_sources(s)
    assert split.marginal.diaSourceId.tolist() == [0]
    split = filter_new_sources(s, NewSourceRules(bad_flags=(), snr=5.0, reliability=0.1))
    assert split.good.diaSourceId.tolist() == [0, 3]  # NaN never rejects
    with pytest.raises(AssociationError, match="nosuch"):
        NewSourceRules(flux_field="nosuch")


def history(n=40, objects_=5, seed=0):
    rng = np.random.default_rng(seed)
    s = pd.DataFrame({"diaSourceId": np.arange(n), "diaObjectId": rng.integers(1, objects_ + 1, n)})
    s["ra"], s["dec"] = 10 + rng.normal(0, 1e-5, n), rng.normal(0, 1e-5, n)
    s["raErr"], s["decErr"], s["ra_dec_Cov"] = rng.uniform(1e-5, 2e-5, n), rng.uniform(1e-5, 2e-5, n), 0.0
    s["midpointMjdTai"], s["band"] = 61000 + rng.uniform(0, 9, n), rng.choice(["g", "r"], n)
    s["psfFlux"], s["psfFluxErr"] = rng.normal(1000, 50, n), rng.uniform(10, 30, n)
    s["scienceFlux"], s["scienceFluxErr"] = s.psfFlux + 500, s.psfFluxErr
    s.loc[3, "psfFlux"] = np.nan
    return s


def test_statistics_equal_an_independent_computation():
    s = history()
    o = objects([10.0] * 5, [0.0] * 5).assign(
        ra_dec_Cov=0.0, nDiaSources=0, firstDiaSourceMjdTai=np.nan, lastDiaSourceMjdTai=np.nan
    )
    out = summarize(o, s)
    for oid, group in s.groupby("diaObjectId"):
        assert out.nDiaSources[oid] == len(group)
        assert out.firstDiaSourceMjdTai[oid] == group.midpointMjdTai.min()
        w = 1 / (0.5 * (group.raErr**2 + group.decErr**2))
        assert out.ra[oid] == pytest.approx((w * group.ra).sum() / w.sum(), abs=1e-9)
        assert out.raErr[oid] == pytest.approx(1 / np.sqrt((1 / group.raErr**2).sum()), rel=1e-5)
        for band in "gr":
            g = group[(group.band == band) & group.psfFlux.notna()].sort_values("midpointMjdTai")
            assert out[f"{band}_psfFluxNdata"][oid] == len(g)
            if len(g):
                w = 1 / g.psfFluxErr**2
                assert out[f"{band}_psfFluxMean"][oid] == pytest.approx((w * g.psfFlux).sum() / w.sum(), rel=1e-6)
                assert out[f"{band}_psfFluxMeanErr"][oid] == pytest.approx(w.sum() ** -0.5, rel=1e-6)
                assert out[f"{band}_psfFluxMax"][oid] == pytest.approx(g.psfFlux.max(), rel=1e-6)
            if len(g) > 1:
                slope = np.diff(g.psfFlux) / np.diff(g.midpointMjdTai)
                assert out[f"{band}_psfFluxMaxSlope"][oid] == pytest.approx(slope.max(), rel=1e-5)
                assert out[f"{band}_psfFluxSigma"][oid] == pytest.approx(g.psfFlux.std(ddof=1), rel=1e-5)
        assert np.isnan(out.i_psfFluxMean[oid])
        assert out.i_psfFluxNdata[oid] == 0


def test_totals_count_new_sources_only_and_means_cross_zero():
    s = history().assign(isNew=False)
    s.loc[:4, "isNew"] = True
    o = objects([10.0] * 5, [0.0] * 5).assign(
        ra_dec_Cov=0.0, nDiaSources=100, firstDiaSourceMjdTai=50000.0, lastDiaSourceMjdTai=50001.0
    )
    out = summarize(o, s)
    new = s[s.isNew].groupby("diaObjectId").size().reindex(out.index, fill_value=0)
    assert (out.nDiaSources == 100 + new).all()
    assert (out.firstDiaSourceMjdTai == 50000.0).all()
    s = sources([359.9999, 0.0003], [0.0, 0.0]).assign(
        diaObjectId=1,
        band="r",
        midpointMjdTai=1.0,
        psfFlux=1.0,
        psfFluxErr=1.0,
        scienceFlux=1.0,
        scienceFluxErr=1.0,
        ra_dec_Cov=0.0,
    )
    out = summarize(o.head(1), s)
    assert out.ra[1] == pytest.approx(0.0001, abs=1e-9)
    with pytest.raises(AssociationError, match="unknown"):
        summarize(o, s, plugins=["ap_nosuch"])


def test_solar_system_takes_the_nearest_pairs_first():
    s = sources([10.0, 10.0 + 0.5 * ARCSEC, 359.99995], [0.0, 0.0, 5.0])
    e = pd.DataFrame({"ssObjectId": [7, 8, 9], "designation": ["2026 SA", "2026 SB1", "x"],
                      "ephRa": [10.0 + 0.4 * ARCSEC, 10.0 + 0.1 * ARCSEC, 0.00005], "ephDec": [0.0, 0.0, 5.0]})  # fmt: skip
    r = match_solar_system(s, e)
    assert r.ssoAssocDiaSources.ssObjectId.tolist() == [8, 7, 9]
    assert r.associatedSsSources.ephOffset.to_numpy() == pytest.approx(
        [0.1, 0.1, 0.36 * np.cos(np.radians(5))], abs=2e-3
    )
    assert len(r.unAssocDiaSources) == 0
    assert match_solar_system(s, e.iloc[:0]).nAssociatedSsObjects == 0


def test_packed_designations():
    assert pack_designation("2026 SA") == "K26S00A"
    assert pack_designation("1995 XL113") == "J95XB3L"
    assert pack_designation("2007 TA418") == "K07Tf8A"
    # the extended form, examples of the Minor Planet Center
    assert pack_designation("2026 CA620") == "_QC0000"
    assert pack_designation("2026 CZ6190") == "_QC0aEM"
    assert ss_object_id("2026 SA") == int.from_bytes(b"K26S00A", "big")


def test_forced_needs_good_history():
    o = objects([10.0] * 3, [0.0] * 3).assign(nDiaSources=[2, 2, 1])
    s = pd.DataFrame({"diaObjectId": [1, 1, 2, 2, 3], "trailLength": [0.1, 0.2, 0.1, 9.0, 0.1], "reliability": np.nan,
                      "isDipole": False, "glint_trail": False})  # fmt: skip
    assert qualified_objects(o, s, ForcedRules()).tolist() == [1]
    scored = s.assign(reliability=[0.9, 0.5, 0.9, 0.9, 0.9])
    assert qualified_objects(o, scored, ForcedRules()).tolist() == [1]
    # a NULL is judged by the rules, whatever the other sources have
    mixed, needed = scored.assign(reliability=[0.9, np.nan, 1, 1, 1]), ForcedRules(needs_reliability=True)
    assert qualified_objects(o, mixed, ForcedRules()).tolist() == [1]
    assert qualified_objects(o, mixed, needed).tolist() == qualified_objects(o, s, needed).tolist() == []
    assert qualified_objects(o, scored, needed).tolist() == [1]
    assert qualified_objects(o, scored.assign(reliability=[0.4, np.nan, 1, 1, 1]), ForcedRules()).tolist() == []
    # two detectors of one exposure are one epoch
    assert qualified_objects(o, s.assign(visit=[7, 7, 8, 8, 8]), ForcedRules()).tolist() == []
    assert qualified_objects(o, s.assign(visit=[7, 8, 8, 8, 8]), ForcedRules()).tolist() == [1]
    assert qualified_objects(o, s.assign(isDipole=None), ForcedRules()).tolist() == []
    assert qualified_objects(o, s.drop(columns="isDipole"), ForcedRules()).tolist() == [1]
    assert qualified_objects(o, s, ForcedRules(bad_flags=("no_such_flag",))).tolist() == [1]
    for column in ("reliability", "trailLength"):
        with pytest.raises(AssociationError, match=column):
            qualified_objects(o, s.drop(columns=column), ForcedRules())


def test_a_near_pair_is_kept_where_another_would_give_more_matches():
    # one source is near the first object and far from the second; the other is at the edge of the first alone
    o = objects([10.0, 10.0], [0.0, 1.0 * ARCSEC], err=np.nan)
    s = sources([10.0, 10.0], [-0.95 * ARCSEC, 0.05 * ARCSEC], err=np.nan)
    assert associate(s, o).diaSources.diaObjectId.tolist() == [0, 1]  # 0.05 + 1.01 < 0.95 + 0.95


def test_infinite_errors_are_none():
    o, s = objects([10.0], [0.1 * ARCSEC]), sources([10.0], [0.0], err=np.inf)
    assert pair_scores(s, o).score.tolist() == pytest.approx([np.radians(0.1 * ARCSEC)])  # a distance


def test_sources_without_position_are_left_out_and_a_source_is_named_once():
    o = objects([10.0], [0.0])
    s = sources([10.0, np.nan, 11.0], [0.0, 0.0, np.nan])
    assert associate(s, o).diaSources.diaSourceId.tolist() == [101]
    with pytest.raises(DuplicateRecords, match=r"1 ids \(first: 101\) are twice in the input"):
        associate(s.assign(diaSourceId=[101, 102, 101]), o)
    twice = pd.concat([o, o.assign(ra=10.00001)], ignore_index=True)
    with pytest.raises(DuplicateRecords, match=r"1 ids \(first: 1\) are twice in the objects"):
        associate(s, twice)


def test_tables_without_errors_and_with_flags_are_summarised():
    s = history()
    o = objects([10.0] * 5, [0.0] * 5).assign(nDiaSources=0, firstDiaSourceMjdTai=np.nan, lastDiaSourceMjdTai=np.nan)
    bare = s.drop(columns=["raErr", "decErr", "ra_dec_Cov"], errors="ignore")
    out = summarize(o, bare)
    assert out[["ra", "dec"]].notna().all().all()
    flagged = summarize(o, s.assign(flags=[0, 1] * (len(s) // 2)), plugins=["ap_diaObjectFlag"])
    raised = s[s.index % 2 == 1].diaObjectId.unique()
    assert set(flagged.index[flagged["flags"] == 1]) == set(raised) & set(o.diaObjectId)
