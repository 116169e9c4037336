"""Templates from patches of several tracts: overlap, coverage, PSF union, calibrations; and the task from them."""

import cv2
import numpy as np
import pandas as pd
import pytest
from lsst.pipe.base import AnnotatedPartialOutputsError, NoWorkFound, Struct

from diffim import ImageDifferenceTask
from diffim.errors import MismatchError, NoTemplateCoverage
from diffim.templates.patches import BORDER, merge_patches
from exposure import Exposure, GaussianPsf, PhotoCalib, SkyWcs, VisitInfo
from exposure.mask import plane_bits
from tasks import CallerError, make_task
from tests.support.matched_pair import ORIGINS
from tests.support.quantum import Quantum

SCALE, SIDE, NOISE = 0.2 / 3600, 300, 2.0
ANGLES = (0.0, 0.3, -0.2, 1.0)  # of the four tracts against the image


@pytest.fixture(params=ORIGINS, ids=["near", "far"])
def origin(request):
    return request.param


def turned(angle, centre, at, scale=1.05):
    c, s = SCALE * scale * np.cos(angle), SCALE * scale * np.sin(angle)
    return SkyWcs.tan(centre, at, [[-c, s], [s, c]])


class Sky:
    """Stars on a plane around (150, 2); images of it by any WCS."""

    def __init__(self, n=900, half=0.032, seed=2):
        rng = np.random.default_rng(seed)
        self.ra = 150 + rng.uniform(-half, half, n) / np.cos(np.radians(2))
        self.dec = 2 + rng.uniform(-half, half, n)
        self.flux = rng.uniform(500, 20_000, n)

    def image(self, wcs, origin, shape, sigma, noise, seed):
        x, y = wcs.sky_to_pixel(self.ra, self.dec)
        x, y = x - origin[0], y - origin[1]
        scale = wcs.pixel_scale_arcsec(origin[0] + shape[1] / 2, origin[1] + shape[0] / 2) / 0.2
        sigma = sigma / scale
        near = (x > -30) & (x < shape[1] + 30) & (y > -30) & (y < shape[0] + 30)
        gx, gy = np.arange(shape[1]), np.arange(shape[0])
        ex = np.exp(-0.5 * ((gx - x[near, None]) / sigma) ** 2)
        ey = np.exp(-0.5 * ((gy - y[near, None]) / sigma) ** 2)
        image = np.einsum("n,nj,ni->ji", self.flux[near] / (2 * np.pi * sigma**2), ey, ex)
        image = image + np.random.default_rng(seed).normal(0, noise, shape)
        return Exposure(
            image.astype("f4"),
            np.full(shape, noise**2, np.float32),
            np.zeros(shape, np.int32),
            origin,
            wcs,
            GaussianPsf(float(sigma), 41, (origin[0] + shape[1] / 2, origin[1] + shape[0] / 2)),
            PhotoCalib(1.0),
            VisitInfo(7, 3, 61000.0, 30.0),
            "r",
            "r_03",
        )


def four_tracts(sky, noise=NOISE):
    """Four tracts around the middle, turned, pixels 5 % larger, of 2 x 2 patches of 300 px that overlap by 40."""
    patches = []
    for t, angle in enumerate(ANGLES):
        quarter = ((t % 2) - 0.5, (t // 2) - 0.5)
        reach = 0.7 * SIDE * SCALE * 1.05 * 2
        wcs = turned(angle, (SIDE - 20.0, SIDE - 20.0), (150 + reach * quarter[0], 2 + reach * quarter[1]))
        for k in range(4):
            corner = ((k % 2) * (SIDE - 40), (k // 2) * (SIDE - 40))
            patches.append(sky.image(wcs, corner, (SIDE, SIDE), 2.0, noise, 100 + 4 * t + k))
    return patches


def science(origin, size=256, at=(150.0, 2.0), sigma=2.4, noise=3.0):
    wcs = SkyWcs.tan((origin[0] + size / 2, origin[1] + size / 2), at, [[-SCALE, 0], [0, SCALE]])
    return Sky().image(wcs, origin, (size, size), sigma, noise, 1)


def test_patches_of_four_tracts_make_one_template(origin):
    image, patches = science(origin, noise=1e-3), four_tracts(Sky())
    template = merge_patches(image, patches)
    assert template.bbox == (origin[0] - BORDER, origin[1] - BORDER, 256 + 2 * BORDER, 256 + 2 * BORDER)
    assert np.isfinite(template.image).all()
    assert np.isfinite(template.variance).all()
    assert (template.band, template.physical_filter) == ("r", "r_03")
    assert template.photo_calib == PhotoCalib(1.0)
    assert template.wcs.same_as(image.wcs, origin[0] + 5.0, origin[1] + 9.0, 1e-9)
    assert len(template.metadata["patches"]) >= 4
    here = template.cutout(*image.bbox)
    good = here.good()
    assert good.mean() > 0.99
    # the image without noise, at the template's seeing
    true = Sky().image(image.wcs, origin, (256, 256), 2.0, 1e-6, 1).image
    rest = (here.image - true)[good]
    assert rest.std() < 1.2 * np.sqrt(np.median(here.variance[good]))
    # averaged where patches overlap, and pixels of another size: of the order of one patch's variance
    assert np.median(here.variance[good]) == pytest.approx(NOISE**2, rel=0.55)
    sigma = np.sqrt(template.psf.moments_at(np.array([origin[0] + 128.0]), np.array([origin[1] + 128.0]))[0, 0])
    assert sigma == pytest.approx(2.0, rel=0.03)


def test_stars_on_the_edges_of_patches_are_whole(origin):
    """At the end of a patch the sums of the resampling lack pixels: there the patch that overlaps counts."""
    image, patches = science(origin, noise=1e-3), four_tracts(Sky(), noise=1e-3)
    here = merge_patches(image, patches).cutout(*image.bbox)
    true = Sky().image(image.wcs, origin, (256, 256), 2.0, 1e-6, 1).image
    inner = cv2.erode(here.good().astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert np.abs(here.image - true)[inner].max() < 0.002 * true.max()


def test_only_patches_that_reach_the_image_are_listed(origin):
    patches = four_tracts(Sky())
    small = merge_patches(science(origin, size=64), patches, border=4).metadata["patches"]
    large = merge_patches(science(origin, size=400), patches).metadata["patches"]
    assert set(small) < set(large)


def test_nothing_there_and_nothing_valid_is_no_work(origin):
    patches = four_tracts(Sky())
    with pytest.raises(NoTemplateCoverage, match="No patches found"):
        merge_patches(science(origin, at=(151.0, 2.0)), patches)
    for p in patches:
        p.set_plane("NO_DATA", np.ones(p.image.shape, bool))
    with pytest.raises(NoTemplateCoverage):
        merge_patches(science(origin), patches)


def test_a_missing_patch_leaves_no_data_and_bad_variances_do_no_harm(origin):
    image, patches = science(origin, size=400), four_tracts(Sky())
    whole = merge_patches(image, patches)
    used = whole.metadata["patches"]
    part = merge_patches(image, [p for k, p in enumerate(patches) if k not in used[:3]])
    lost = part.flagged("NO_DATA").sum() - whole.flagged("NO_DATA").sum()
    assert lost > 1000
    assert np.isfinite(part.image).all()
    assert (part.image[part.flagged("NO_DATA")] == 0).all()
    for p in patches:
        p.variance[100:140, 100:140] = np.nan
        p.image[200:203, 200:203] = np.nan
    holed = merge_patches(image, patches)
    assert np.isfinite(holed.image).all()
    assert np.isfinite(holed.variance).all()
    inner = holed.good() & whole.good()
    # a NaN takes no part: it does not pull the mean to 0
    change = np.abs(holed.image - whole.image)[inner]
    assert (change > 5 * NOISE).mean() < 1e-3
    assert change.max() < 0.1 * whole.image.max()


def test_bands_and_calibrations_must_agree(origin):
    patches = four_tracts(Sky())
    patches[3].photo_calib = PhotoCalib(2.0)
    with pytest.raises(MismatchError, match="one calibration"):
        merge_patches(science(origin), patches)
    patches[3].photo_calib, patches[3].band = PhotoCalib(1.0), "g"
    with pytest.raises(MismatchError, match=r"\['g', 'r'\]"):
        merge_patches(science(origin), patches)


def sources_of(image):
    sky = Sky()
    x, y = image.wcs.sky_to_pixel(sky.ra, sky.dec)
    t = pd.DataFrame({"x": x, "y": y, "psfFlux": sky.flux, "snr": sky.flux / 25})
    t["star"], t["isolated"], t["flagged"] = True, True, False
    inside = image.contains(t.x, t.y, -5)
    return t[inside].sort_values("psfFlux", ascending=False, ignore_index=True)


def test_a_quantum_and_a_dataref_give_the_same(origin, tmp_path):
    image, patches = science(origin, size=400), four_tracts(Sky())
    options = {"doUseRegister": False, "doScaleVariance": False}
    context = Quantum(exposure=image.copy(), coaddExposures=patches, selectSources=sources_of(image))
    refs = Struct(subtractedExposure="d", warpedExposure="w", diaSources="s", matchedExposure="m")
    make_task(ImageDifferenceTask, options).runQuantum(context, None, refs)
    assert set(context.kept) == {"d", "w", "s", "m"}
    z = context.kept["d"].image / np.sqrt(context.kept["d"].variance)
    good = context.kept["d"].good("SUSPECT", "HIGH_VARIANCE")
    assert 1.4826 * np.median(np.abs(z[good])) == pytest.approx(1, abs=0.1)
    files = []
    for k, p in enumerate(patches):
        files.append(tmp_path / f"patch{k}.fits")
        p.write_fits(files[-1])
    sensor = {
        "exposure": image.copy(),
        "templates": files,
        "selectSources": sources_of(image),
        "output": tmp_path / "out",
    }
    result = make_task(ImageDifferenceTask, options).runDataRef(sensor)
    assert np.allclose(result.subtractedExposure.image, context.kept["d"].image, atol=0.2)
    written = Exposure.read_fits(tmp_path / "out" / "subtractedExposure.fits")
    assert np.array_equal(written.image, result.subtractedExposure.image)
    assert len(pd.read_parquet(tmp_path / "out" / "diaSources.parquet")) == len(result.diaSources)


def test_what_was_made_before_a_failure_is_stored():
    """No source passes: the difference, whose missing pixels are NaN, and the matched template are there all the same."""
    origin = ORIGINS[1]
    image, patches = science(origin), four_tracts(Sky())
    image.mask[50:60, 50:60] = plane_bits(["NO_DATA"])
    options = {
        "doUseRegister": False,
        "raiseOnNoDiaSources": True,
        "minReliability": 0.999999,
        "detectionThreshold": 50.0,
    }
    context = Quantum(exposure=image, coaddExposures=patches, selectSources=sources_of(image))
    refs = Struct(subtractedExposure="d", warpedExposure="w", diaSources="s", matchedExposure="m")
    with pytest.raises(AnnotatedPartialOutputsError):
        make_task(ImageDifferenceTask, options).runQuantum(context, None, refs)
    assert set(context.kept) == {"d", "w", "m"}
    assert np.isnan(context.kept["d"].image[52, 52])
    bad = Quantum(exposure=science(origin), coaddExposures=patches, selectSources=sources_of(image))
    with pytest.raises(AnnotatedPartialOutputsError):  # judged after the match
        make_task(ImageDifferenceTask, {"doUseRegister": False, "maxNoiseGain": 1e-9}).runQuantum(bad, None, refs)
    assert set(bad.kept) == {"d", "w", "m"}


def test_the_matched_template_is_an_exposure_that_adds_up():
    """Image less matched template is the difference before the noise is whitened and the sky taken off; its noise is the template's."""
    origin = ORIGINS[1]
    image = science(origin, noise=1.0)  # of which the template's is a good part
    template = merge_patches(image, four_tracts(Sky()))
    options = {"doUseRegister": False, "doDecorrelation": False, "doSubtractBackground": False, "doScaleDiffimVariance": False,
               "mode": "convolveTemplate"}  # fmt: skip
    r = make_task(ImageDifferenceTask, options).run(image, sources_of(image), template)
    m, d = r.matchedExposure, r.subtractedExposure
    assert (m.bbox, m.band, m.photo_calib, m.visit_info) == (
        image.bbox,
        image.band,
        image.photo_calib,
        image.visit_info,
    )
    good = d.good("BAD", "CR", "EDGE")
    left = (image.image - m.image - d.image)[good]
    assert np.abs(left - np.median(left)).max() < 1e-2 * np.sqrt(np.median(d.variance[good]))
    # what the difference's variance has beside the image's is that of the matched template
    parts = [float(np.median(e.variance[good])) for e in (d, image, m)]
    assert parts[2] == pytest.approx(parts[0] - parts[1], rel=0.1)


def test_sources_of_the_template_are_matched_or_refused():
    origin = ORIGINS[1]
    image = science(origin)
    template = merge_patches(image, four_tracts(Sky()))
    known = sources_of(image)
    place = known[
        known.x.between(origin[0] + 40, origin[0] + 150) & known.y.between(origin[1] + 40, origin[1] + 150)
    ].iloc[0]
    stamp = image.require_psf().image_at(place.x, place.y)[0]
    half, ix, iy = stamp.shape[0] // 2, round(place.x) - origin[0], round(place.y) - origin[1]
    image.image[iy - half : iy + half + 1, ix - half : ix + half + 1] += 0.5 * place.psfFlux * stamp
    ra, dec = image.wcs.pixel_to_sky(known.x.to_numpy(), known.y.to_numpy())
    stars = known.assign(ra=ra, dec=dec, sourceId=np.arange(len(known)) + 100)
    reference = pd.DataFrame({"id": np.arange(len(known)) + 7000, "ra": ra, "dec": dec + 0.1 / 3600})
    task = make_task(ImageDifferenceTask, {"doUseRegister": False})
    t = task.run(image.copy(), stars, template.copy(), reference).diaSources
    row = t.iloc[np.hypot(t.x - place.x, t.y - place.y).argmin()]
    number = int(place.name)
    assert (row.srcMatchId, row.refMatchId) == (100 + number, 7000 + number)
    far = make_task(ImageDifferenceTask, {"doUseRegister": False, "diaSourceMatchRadius": 0.05})
    assert (far.run(image.copy(), stars, template.copy(), reference).diaSources.refMatchId == 0).all()
    for column in ("ra", "id"):
        with pytest.raises(CallerError, match=f"templateSources .*lacks {column}"):
            task.run(image.copy(), stars, template.copy(), reference.drop(columns=column))


def test_a_quantum_without_template_is_no_work_and_without_sources_stores_the_rest(origin):
    image, patches = science(origin), four_tracts(Sky())
    task = make_task(ImageDifferenceTask, {"doDetection": False, "doUseRegister": False})
    context = Quantum(exposure=image.copy(), coaddExposures=patches, selectSources=sources_of(image))
    task.runQuantum(context, None, Struct(subtractedExposure="d", warpedExposure="w"))
    assert set(context.kept) == {"d", "w"}
    far = Quantum(exposure=science(origin, at=(151.0, 2.0)), coaddExposures=patches, selectSources=sources_of(image))
    with pytest.raises(NoWorkFound, match="No patches found"):
        make_task(ImageDifferenceTask, {}).runQuantum(far, None, Struct(subtractedExposure="d"))
