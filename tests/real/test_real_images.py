"""Real images: HAT-P-32 (one night, drift, an exoplanet transit) and DECam (two seasons)."""

import numpy as np
import pandas as pd
import pytest
import sep
from scipy.spatial import cKDTree

from calibration import ReferenceStars
from calibration.characterize import characterize
from diffim import ImageDifferenceTask, TemplateStore
from exposure import Exposure, load_instrument
from exposure.errors import WcsMissing
from exposure.io.native import read_wcs
from service.local.night import NightPlan, run_night
from service.pairs.difference import PairOptions, difference_files
from service.processing.build_template import template_from_frames
from tasks import make_task
from tests.support.real import real_data


def test_transit_of_hatp32(tmp_path, monkeypatch):
    monkeypatch.setenv("ALERTPROD_WORKERS", "1")  # visits of one patch are done one after the other
    folder = real_data("microobs_hatp32")
    frames = sorted(folder.glob("hatp32_*.fits.gz"))
    ra, dec = read_wcs(frames[0]).pixel_to_sky(423.2, 286.0)
    (tmp_path / "p.csv").write_text(f"id,ra,dec\n1,{float(ra)},{float(dec)}\n")
    report = run_night(NightPlan("hatp32", frames[:8], frames[::2], tmp_path / "out", tmp_path / "p.csv"))
    assert [v["state"] for v in report["visits"]] == ["done"] * 18
    assert report["refused"] == []
    table = pd.read_parquet(tmp_path / "out" / "forcedPositions.parquet")
    assert list(table.columns) == [
        "id",
        "visit",
        "detector",
        "mjd",
        "band",
        "ra",
        "dec",
        "psfFlux",
        "psfFluxErr",
        "scienceFlux",
        "scienceFluxErr",
    ]
    hours = (table.mjd - 58107) * 24 - 37 / 3600
    inside, outside = hours.between(3.5, 5.83), (hours < 3.3) | (hours > 6.0)
    flux = table.scienceFlux / table.scienceFlux[outside].mean()
    assert 0.017 <= 1 - flux[inside].mean() <= 0.032
    assert flux[outside].std() <= 0.009
    change = table.psfFlux / table.scienceFlux[outside].mean()
    assert 0.010 <= change[outside].mean() - change[inside].mean() <= 0.032
    assert change[outside].std() <= 0.012
    for name in ("diaObjects", "diaSources", "diaForcedSources"):
        assert len(pd.read_parquet(tmp_path / "out" / f"{name}.parquet")) > 0


def test_the_last_digit_of_the_template_decides_nothing_on_hatp32(tmp_path):
    """Stars of 2 px, smoothed; the template is the broader image in two of the three visits."""
    frames = sorted(real_data("microobs_hatp32").glob("hatp32_*.fits.gz"))
    rules = load_instrument("hatp32")
    options = rules.task_config["ImageDifferenceTask"]
    assert "mode" not in options
    chosen = template_from_frames(tmp_path, "t", frames[:4], rules)
    for path in (frames[3], frames[4], frames[9]):
        science = Exposure.read_fits(path, rules)
        characterize(science, rules, ReferenceStars(chosen.stars()))
        template = TemplateStore(tmp_path).fetch(chosen, science)
        for mode in ("auto", "convolveTemplate"):
            found = []
            for noise in (0.0, 1e-7):
                e, t = science.copy(), template.copy()
                t.image[:] = t.image.astype(float) * (1 + noise * np.random.default_rng(1).normal(size=t.image.shape))
                task = make_task(ImageDifferenceTask, options | {"mode": mode})
                found.append(task.run(e, e.sources, t).diaSources)
                m = task.metadata
                broader = m["templatePsfSize"] > 1.001 * m["sciencePsfSize"]
                assert m["kernelDeconvolves"] == (broader and mode == "convolveTemplate")
                assert ("deconvolution" in m["kernelWarning"]) == m["kernelDeconvolves"]
            one, other = found
            assert len(one) == len(other) > 10, path.name  # enough to see a digit decide
            far, row = cKDTree(one[["x", "y"]].to_numpy()).query(other[["x", "y"]].to_numpy())
            assert far.max() < 0.05, path.name
            assert len(set(row)) == len(one), path.name
            one = one.iloc[row].reset_index(drop=True)  # of two that are as significant either may come first
            for flux in ("psfInstFlux", "scienceInstFlux"):
                assert np.nanmax(np.abs(one[flux] - other[flux]) / one[f"{flux}Err"]) < 0.1, path.name


@pytest.mark.parametrize(("template", "science"), [("18", "04"), ("04", "18")])
def test_two_seasons_of_decam(tmp_path, template, science):
    folder = real_data("decam_two_seasons")
    rules = load_instrument("decam")
    chosen = template_from_frames(tmp_path, "t", sorted(folder.glob(f"DEC-OBS{template}*.fits")), rules)
    for path in sorted(folder.glob(f"DEC-OBS{science}*.fits")):
        e = Exposure.read_fits(path, rules)
        characterize(e, rules, ReferenceStars(chosen.stars()))
        fetched = TemplateStore(tmp_path).fetch(chosen, e)
        result = make_task(ImageDifferenceTask).run(e, e.sources, fetched)
        d = result.subtractedExposure
        faint = np.abs(result.matchedExposure.image) < 3 * np.sqrt(d.variance)
        z = (d.image / np.sqrt(d.variance))[(d.mask == 0) & faint]
        assert z.std() == pytest.approx(1.0, abs=0.05), path.name
        stars = e.sources[(e.sources.snr > 50) & ~e.sources.flagged & e.sources.isolated]
        left = sep.sum_circle(np.ascontiguousarray(d.image), stars.x.to_numpy(), stars.y.to_numpy(), 8.0)[0]
        share = (np.abs(left) / stars.psfFlux.to_numpy())[np.isfinite(left)]  # others stand beside missing data
        assert len(share) >= 3, path.name
        assert share[0] < 0.02, path.name  # the brightest star of the cut-out
        assert np.median(share) < 0.04, path.name
        assert len(result.diaSources) < 30
        # two years lie between the seasons: some of the bright stars moved, the others subtract to their noise
        sigma = d.image / np.sqrt(np.maximum(d.variance, 1e-30))
        around = [
            np.sqrt(
                np.mean(sigma[iy - 4 : iy + 5, ix - 4 : ix + 5][d.mask[iy - 4 : iy + 5, ix - 4 : ix + 5] == 0] ** 2)
            )
            for ix, iy in zip(stars.x.round().astype(int), stars.y.round().astype(int), strict=True)
            if (d.mask[iy - 4 : iy + 5, ix - 4 : ix + 5] == 0).mean() > 0.5
        ]
        assert np.median(around) <= 1.3, path.name


def test_pair_without_wcs_is_refused_or_registered_by_its_stars(tmp_path):
    """ESO 085-030, two frames 74 s apart: nothing changed between them."""
    first, second = sorted(real_data("eso085_pair").glob("*.fit.gz"))
    rules = load_instrument("generic")
    with pytest.raises(WcsMissing):
        difference_files(first, second, rules)
    made = difference_files(first, second, rules, PairOptions(register=True, sources=True))
    d = made.exposure
    z = (d.image / np.sqrt(d.variance))[d.mask == 0]
    assert 1.4826 * np.median(np.abs(z)) == pytest.approx(1.0, abs=0.02)
    assert made.sources is not None and len(made.sources) <= 20
