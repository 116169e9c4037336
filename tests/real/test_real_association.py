"""Association and statistics on real surveys: ZTF detections replayed in time, RR Lyrae of SDSS, light curves of ZTF."""

import tarfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.stats import median_absolute_deviation
from astropy.timeseries import LombScargle

from association import associate, summarize
from association.statistics.summary import MULTIBAND
from tests.support.real import real_data

BANDS = "ugriz"


def sources_of(objects):
    """Join light curves (id -> frame of band, mjd, flux, err) to DiaSources."""
    frames = [lc.assign(diaObjectId=np.int64(k + 1)) for k, lc in enumerate(objects)]
    s = pd.concat(frames, ignore_index=True)
    s["diaSourceId"] = np.arange(len(s))
    for name, value in (("ra", 10.0), ("dec", 5.0), ("raErr", 1e-5), ("decErr", 1e-5), ("ra_dec_Cov", 0.0)):
        s[name] = value
    s["scienceFlux"], s["scienceFluxErr"] = s.psfFlux * 2, s.psfFluxErr
    return s


def empty_objects(n):
    return pd.DataFrame({"diaObjectId": np.arange(1, n + 1), "ra": 10.0, "dec": 5.0, "raErr": 1e-5, "decErr": 1e-5,
                         "ra_dec_Cov": 0.0, "nDiaSources": 0, "firstDiaSourceMjdTai": np.nan,
                         "lastDiaSourceMjdTai": np.nan})  # fmt: skip


def stetson_j(f, e, mean):
    n = len(f)
    if n < 2:
        return np.nan
    for _ in range(20):
        chi = np.abs(np.sqrt(n / (n - 1)) * (f - mean) / e)
        step = np.average(f, weights=1 / e**2 / (1 + (chi / 2) ** 2))
        change, mean = abs(step - mean), step
        if change / mean < 1e-6 and change < 1e-6:
            break
    p = n / (n - 1) * ((f - mean) / e) ** 2 - 1
    return np.mean(np.sign(p) * np.sqrt(np.abs(p)))


def independent(lc):
    """All statistics of one light curve of one band by pandas, numpy and astropy."""
    f, e, t = (lc[c].to_numpy(np.float64) for c in ("psfFlux", "psfFluxErr", "midpointMjdTai"))
    s = pd.Series(f)
    w = 1 / e**2
    mean = np.average(f, weights=w)
    out = {"psfFluxMean": mean, "psfFluxMeanErr": w.sum() ** -0.5, "psfFluxNdata": len(f), "psfFluxSigma": s.std(),
           "psfFluxMin": f.min(), "psfFluxMax": f.max(), "psfFluxErrMean": e.mean(), "psfFluxSkew": s.skew(),
           "psfFluxMAD": median_absolute_deviation(f), "psfFluxChi2": (((f - np.float32(mean)) / e) ** 2).sum(),
           "scienceFluxSigma": (2 * s).std()}  # fmt: skip
    for q in (5, 25, 50, 75, 95):
        out[f"psfFluxPercentile{q:02d}"] = np.percentile(f, q)
    order = np.argsort(t, kind="stable")
    dt = np.diff(t[order])
    if (dt > 0).any():
        out["psfFluxMaxSlope"] = (np.diff(f[order])[dt > 0] / dt[dt > 0]).max()
    if len(f) >= 2:
        slope, level = np.polyfit(t - t.mean(), f, 1, w=1 / e)
        out |= {"psfFluxLinearSlope": slope, "psfFluxLinearIntercept": level - slope * t.mean()}
    out["psfFluxStetsonJ"] = stetson_j(f, e, np.float32(mean).astype(float))
    return out


def period_of(lc):
    t = lc.midpointMjdTai.to_numpy()
    step = 1 / np.ptp(t) / 5
    grid = step * (1 + np.arange(int(0.5 * 5 * 100 * len(t))))
    p = LombScargle(t, lc.psfFlux.to_numpy(), lc.psfFluxErr.to_numpy()).power(grid, method="cython")
    return grid, p


def compare(curves, bands):
    s = sources_of(curves)
    found = summarize(empty_objects(len(curves)), s, plugins="all")
    assert list(found.index) == list(range(1, len(curves) + 1))
    columns = {name: found[name].to_numpy(np.float64) for name in found if name.split("_")[0] in bands}
    checked = 0
    for k, lc in enumerate(curves):
        for band in bands:
            part = lc[lc.band == band]
            if part.empty:
                assert np.isnan(columns[f"{band}_psfFluxMean"][k])
                continue
            largest = 1e-6 * np.abs(part.psfFlux.to_numpy()).max()
            for name, want in independent(part).items():
                assert columns[f"{band}_{name}"][k] == pytest.approx(
                    want, rel=2e-6, abs=largest if "Skew" not in name else 1e-5, nan_ok=True
                ), (k, band, name)
                checked += 1
    return found, checked


def test_statistics_of_rr_lyrae():
    archive = real_data("sdss_stripe82_rrlyrae") / "lightcurves.tar.gz"
    curves = []
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            table = np.loadtxt(tar.extractfile(member))
            bands = []
            for k, band in enumerate(BANDS):
                mjd, mag, err = table[:, 2 + 3 * k : 5 + 3 * k].T
                good = (mag > 0) & (mag < 30) & (err > 0) & (err < 1)
                flux = 10 ** (-0.4 * (mag[good] - 31.4))
                bands.append(
                    pd.DataFrame(
                        {
                            "band": band,
                            "midpointMjdTai": mjd[good],
                            "psfFlux": flux,
                            "psfFluxErr": flux * err[good] / 1.0857,
                        }
                    )
                )
            curves.append(pd.concat(bands))
    found, checked = compare(curves, BANDS)
    assert checked > 20_000
    good, same = 0, 0
    for k in range(0, len(curves), 40):
        part = curves[k][curves[k].band == "g"].sort_values("midpointMjdTai")
        grid, power = period_of(part)
        got_power, got_period = found.loc[k + 1, "g_power"], found.loc[k + 1, "g_period"]
        assert got_power == pytest.approx(power.max(), rel=1e-6)
        good += 1
        same += got_period == pytest.approx(1 / grid[np.argmax(power)], rel=1e-9)
    assert same == good >= 5
    _multiband_periods(curves[::80])


def _multiband_periods(curves):
    """One period from all bands: the bands' reductions of chi2 by astropy, added up."""
    found = summarize(empty_objects(len(curves)), sources_of(curves), plugins=[MULTIBAND])
    agree = 0
    for k, lc in enumerate(curves):
        t = lc.midpointMjdTai.to_numpy()
        grid = np.arange(1, int(0.5 * 5 * 100 * len(t)) + 1) / np.ptp(t) / 5
        reduction, total = np.zeros(grid.size), 0.0
        for _, part in lc.groupby("band"):
            f, e = part.psfFlux.to_numpy(), part.psfFluxErr.to_numpy()
            chi2 = (((f - np.average(f, weights=e**-2)) / e) ** 2).sum()
            power = LombScargle(part.midpointMjdTai.to_numpy(), f, e).power(grid, method="cython")
            reduction += chi2 * power
            total += chi2
        best = np.argmax(reduction)
        row = found.loc[k + 1]
        assert row.multiPower == pytest.approx(reduction[best] / total, rel=1e-6)
        assert row.multiPeriod == pytest.approx(1 / grid[best], rel=1e-9)
        assert 0 <= row.multiFap < 1e-6
        part = lc[lc.band == "r"]
        model = LombScargle(part.midpointMjdTai.to_numpy(), part.psfFlux.to_numpy(), part.psfFluxErr.to_numpy())
        theta = model.model_parameters(grid[best])
        assert row.r_multiAmp == pytest.approx(np.hypot(theta[1], theta[2]), rel=1e-4)
        agree += 0.2 < row.multiPeriod < 1.0  # days, as RR Lyrae stars pulsate
    assert agree >= 0.5 * len(curves)


def test_statistics_of_ztf_light_curves():
    table = pq.read_table(next(real_data("ztf_dr5_lightcurves").glob("*.parquet"))).to_pandas()
    curves = []
    for row in table.itertuples():
        mag, err = np.asarray(row.mag, float), np.asarray(row.magerr, float)
        flux = 10 ** (-0.4 * (mag - 31.4))
        curves.append(
            pd.DataFrame(
                {
                    "band": "g",
                    "midpointMjdTai": np.asarray(row.hmjd, float),
                    "psfFlux": flux,
                    "psfFluxErr": flux * err / 1.0857,
                }
            )
        )
    some = curves[::8]
    _, checked = compare(some, "g")
    assert checked > 18 * len(some)


def test_ztf_detections_replayed_in_time_keep_their_objects():
    """Completeness and purity against ZTF's own objects, for detections within the radius of their object.

    ZTF has stars that were detected twice or more on one image (32 rows): one image, one match, so the first is taken.
    """
    t = pd.read_csv(real_data("ztf_alerts") / "ztf_detections_truth.csv.gz")
    t = t.sort_values("candid").drop_duplicates(["objectId", "mjd", "field", "rcid"])
    names = {c.lower(): c for c in t.columns}
    oid, mjd, ra, dec = (names[c] for c in ("objectid", "mjd", "ra", "dec"))
    t = t.sort_values([mjd, ra]).reset_index(drop=True)
    radius = 1.5
    objects = pd.DataFrame({"diaObjectId": np.zeros(0, np.int64), "ra": [], "dec": []})
    given, sums = np.zeros(len(t), np.int64), {}
    for _, visit in t.groupby([mjd, "field", "rcid"]):  # one quadrant of one exposure is one run
        s = pd.DataFrame(
            {"diaSourceId": visit.index.to_numpy() + 1, "ra": visit[ra].to_numpy(), "dec": visit[dec].to_numpy()}
        )
        ids = associate(s, objects, radius).diaSources.diaObjectId.to_numpy()
        ids = np.where(ids == 0, s.diaSourceId, ids)
        given[visit.index] = ids
        for k, i in enumerate(ids):
            n, a, d = sums.get(i, (0, 0.0, 0.0))
            sums[i] = (n + 1, a + s.ra[k], d + s.dec[k])
        objects = pd.DataFrame([{"diaObjectId": i, "ra": a / n, "dec": d / n} for i, (n, a, d) in sums.items()])
        objects["diaObjectId"] = objects.diaObjectId.astype(np.int64)
    t["given"] = given
    center = t.groupby(oid)[[ra, dec]].transform("median")
    apart = np.hypot((t[ra] - center[ra]) * np.cos(np.radians(t[dec])), t[dec] - center[dec]) * 3600
    near = t[apart < radius]
    main = near.groupby(oid).given.agg(lambda g: g.value_counts().idxmax())
    completeness = (near.given == near[oid].map(main)).mean()
    owner = near.groupby("given")[oid].agg(lambda g: g.value_counts().idxmax())
    purity = (near[oid] == near.given.map(owner)).mean()
    print(f"{len(near)} of {len(t)} detections: completeness {completeness:.4f}, purity {purity:.4f}")
    assert completeness >= 0.995
    assert purity >= 0.995
