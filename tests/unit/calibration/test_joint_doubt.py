"""Joint fits of inputs that contradict the model: each comes out right, or is left out or refused by name."""

import copy
import dataclasses
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from calibration.errors import JointCalibrationError, SingularFit
from calibration.joint import halves
from calibration.joint.data import ARCSEC
from calibration.joint.image_quality import report_weak
from calibration.joint.joint import JointFit
from calibration.joint.whiteness import whiteness
from exposure.camera import Camera
from simulation.focal_plane import MosaicSettings, MosaicSurvey, simulate_mosaic
from tasks.sphere import unit_vectors
from tests.support.mosaics import config, summaries, survey, true_pixels_to_sky

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")
X, Y = (a.ravel() for a in np.meshgrid(np.linspace(50, 2000, 5), np.linspace(50, 4100, 5)))


class Of(SimpleNamespace):
    """Images, as far as they are asked for."""

    def __len__(self) -> int:
        return len(self.visit)


def visits(s: MosaicSurvey) -> list[int]:
    return sorted({v for v, _ in s.headers})


def fit(s: MosaicSurvey, references=None, **values):
    references = s.references if references is None else references
    return JointFit(config(**values), references, references).run(s.sources, summaries(s), s.camera)


def wcs_errors(s: MosaicSurvey, result, moved=None) -> dict[tuple[int, int], float]:
    """Rms distance (mas) of each published WCS from the simulation's own; pixels of `moved` images lie elsewhere."""
    out = {}
    for (v, d), wcs in result.outputWcs.items():
        dx, dy = (moved or {}).get((v, d), (0.0, 0.0))
        off = unit_vectors(*wcs.pixel_to_sky(X + dx, Y + dy)) - unit_vectors(*true_pixels_to_sky(s, v, d, X, Y))
        out[v, d] = 1e3 * float(np.sqrt((off**2).sum(1).mean())) / ARCSEC
    return out


def under_cloud(s: MosaicSurvey, share):
    """The survey with light lost over its second visit: `share` of x, y (mm) of the focal plane is what comes through."""
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    table = made.sources[1]
    for d in np.unique(table.detector):
        of = (table.detector == d).to_numpy()
        fx, fy = s.camera[int(d)].to_focal(table.x.to_numpy()[of], table.y.to_numpy()[of])
        table.loc[of, "apFlux_12_0_instFlux"] *= share(fx, fy)
    return made


def zero_point_errors(s: MosaicSurvey, result, extra=None) -> np.ndarray:
    """What the published calibrations are off by (mmag) over each image; `extra` mag per visit."""
    index = [int(t.visit.iloc[0]) for t in s.sources]
    out = []
    for (v, d), calib in result.outputPhotoCalib.items():
        true = s.optics.scale_mag(s.extra["visits"][index.index(v)], d, *s.camera[d].to_focal(X, Y)) + (
            extra or {}
        ).get(v, 0)
        out.append(1e3 * (31.4 - 2.5 * np.log10(calib.at(X, Y)) - true))
    return np.array(out)


def with_headers(s: MosaicSurvey, of: list[int], change) -> MosaicSurvey:
    """The survey with changed headers of some visits."""
    made = copy.copy(s)
    made.headers = {key: header.copy() for key, header in s.headers.items()}
    for (v, _), header in made.headers.items():
        if v in of:
            change(header)
    return made


def linear(matrix):
    def change(header):
        new = matrix @ np.array([[header[f"PC{i}_{j}"] for j in (1, 2)] for i in (1, 2)])
        for i in (0, 1):
            for j in (0, 1):
                header[f"PC{i + 1}_{j + 1}"] = new[i, j]

    return change


def turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def north(arcsec: float):
    def change(header):
        header["CRVAL2"] += arcsec / 3600

    return change


@pytest.mark.parametrize(
    "change",
    [
        linear(turn(1.0)),
        linear(np.diag([-1.0, 1.0])),
        linear(1.01 * np.eye(2)),
        north(60.0),
    ],
    ids=["1 deg", "mirrored", "1 % in scale", "60 arcsec"],
)
def test_a_visit_with_wrong_headers_is_found(change, caplog):
    s = survey()
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(with_headers(s, visits(s)[3:], change), doPhotometry=False)
    assert result.metrics["converged"]
    assert len(result.outputWcs) == len(s.headers)
    assert max(wcs_errors(s, result).values()) < 12.0  # the fit's own errors: median 2 mas, corners more
    assert any(r.getMessage().startswith(f"visit {visits(s)[3]}: its headers are far off") for r in caplog.records)
    assert not result.image_quality.astrometry_lost.any()


def test_all_visits_with_wrong_headers_are_found():
    s = survey()
    result = fit(with_headers(s, visits(s), linear(turn(1.0))), doPhotometry=False)
    assert result.metrics["converged"]
    assert max(wcs_errors(s, result).values()) < 12.0


def test_a_visit_that_is_nowhere_is_left_out_by_name(caplog):
    s = survey()
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(with_headers(s, visits(s)[3:], north(3600.0)), doPhotometry=False)
    lost = visits(s)[3]
    assert not result.metrics["converged"]
    assert {v for v, _ in result.outputWcs} == set(visits(s)[:3])
    assert max(wcs_errors(s, result).values()) < 12.0
    table = result.image_quality
    assert (table.astrometry_lost == (table.visit == lost)).all()
    assert any(f"visit {lost}: its 9 images cannot be brought onto" in r.getMessage() for r in caplog.records)


def test_fields_at_the_poles_with_rough_headers():
    for dec, seed in ((90.0, 3), (-90.0, 3)):
        s = simulate_mosaic(MosaicSettings(seed, 4, 9, centre=(10.0, dec)))
        result = fit(s, doPhotometry=False)
        assert result.metrics["converged"]
        errors = wcs_errors(s, result)
        assert len(errors) == len(s.headers)
        assert np.median(list(errors.values())) < 4.0
        assert max(errors.values()) < 40.0  # the chips at the edge have 35 stars


@pytest.mark.parametrize("pixels", [1.0, 5.0])
def test_a_chip_that_moved_between_visits_gets_maps_of_its_own(pixels, caplog):
    s = survey()
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    for table in made.sources[2:]:
        of = (table.detector == 7).to_numpy()
        table.loc[of, "x"] += pixels
        table.loc[of, "y"] -= 0.6 * pixels
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(made, doPhotometry=False)
    moved = {(v, 7): (pixels, -0.6 * pixels) for v in visits(s)[2:]}
    assert result.metrics["converged"]
    assert max(wcs_errors(s, result, moved).values()) < 20.0  # a map of its own has 100 stars
    assert any("do not follow the chip maps of the others" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("pixels", [15.0, 60.0, 200.0])
def test_a_camera_file_that_is_wrong_of_one_chip_is_told(pixels, caplog):
    s = copy.copy(survey())
    detectors = dict(s.camera.detectors)
    x, y = detectors[4].offset_mm
    step = pixels * detectors[4].pixel_size_mm[0]
    detectors[4] = dataclasses.replace(detectors[4], offset_mm=(x + step, y))
    s.camera = Camera(s.camera.name, detectors)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(s, doPhotometry=False)
    assert result.converged
    assert len(result.outputWcs) == len(s.headers)
    assert max(wcs_errors(survey(), result).values()) < 8.0  # tens of mas to arcsec in all images before
    assert result.metrics["reference_field_significance"] < 5.0
    assert any("1 chips sit elsewhere" in r.getMessage() and "detector 4: " in r.getMessage() for r in caplog.records)


def test_four_of_nine_chips_that_moved_get_maps_of_their_own():
    s = survey()
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    steps = {0: 6.0, 2: 0.7, 5: 2.0, 7: 0.35}
    for table in made.sources[2:]:
        table["x"] += table.detector.map(steps).fillna(0.0)
    result = fit(made, doPhotometry=False)
    moved = {(v, d): (step, 0.0) for v in visits(s)[2:] for d, step in steps.items()}
    table = result.image_quality.set_index(["visit", "detector"])
    for key, error in wcs_errors(s, result, moved).items():
        assert (
            table.loc[key].astrometry_weak or error < 5 * 1e3 * np.sqrt(2) * table.loc[key].astrometry_formal_error
        ), key
    assert table.astrometry_weak.mean() < 0.5


def test_chips_that_are_pushed_are_looked_for_beside_chips_that_never_fit(monkeypatch):
    """A chip that stands out with a map of its own too hides no other chip."""
    images, given = SimpleNamespace(detector=np.arange(9)), []
    registration = SimpleNamespace(affine=np.zeros(1, bool), lost=frozenset())
    half = SimpleNamespace(associated=SimpleNamespace(registration=registration), quality=None)
    monkeypatch.setattr(halves, "_fit_astrometry", lambda inputs, own: (given.append(set(own)), (images, half))[1])
    monkeypatch.setattr(halves, "_moved_chips", lambda quality: frozenset({(1, 0)}))
    monkeypatch.setattr(halves, "_pushed_chips", lambda half, images, own: frozenset({(1, 2)}) if own else frozenset())
    halves.fit_astrometry(SimpleNamespace(config=SimpleNamespace(astrometryModel="constrained")))
    assert given == [set(), {(1, 0)}, {(1, 0), (1, 2)}]


def test_a_chip_is_pushed_more_than_others_that_share_a_map():
    detector, visit = np.tile(np.arange(9), 4), np.repeat(np.arange(4), 9)
    images = Of(visit=visit, detector=detector, key=lambda i: (int(visit[i]), int(detector[i])))
    own = frozenset(images.key(i) for i in range(36) if detector[i] < 6)

    def pushed(last: float):
        whole = np.where(detector == 8, last, 40.0)
        half = SimpleNamespace(white=SimpleNamespace(whole=whole), problem=SimpleNamespace(dimension=2))
        return halves._pushed_chips(half, images, own)

    assert pushed(40.0) == frozenset()  # as turbulence pushes all three that share one
    assert pushed(400.0) == {(v, 8) for v in range(4)}


@pytest.mark.parametrize("stars", [12, 48, 192])
def test_what_neighbours_have_in_common_is_no_larger_where_there_are_more_of_them(stars, monkeypatch):
    """Visit 0 is white, 1 turbulent all over, of 2 one image in 36 is torn."""
    rng = np.random.default_rng(stars)
    cell = np.repeat(np.arange(9 * 108), stars)
    image = cell // 9
    common = np.array([0.0, 0.013, 0.001])[image // 36] * np.ones_like(image)
    common[image == 80] = 0.12
    own = 0.04 * rng.normal(size=(cell.size, 1))
    off = own + common[:, None] * rng.normal(size=9 * 108)[cell][:, None]
    monkeypatch.setattr("calibration.joint.whiteness._pulls", lambda half, images: (off / 0.04, off, cell))

    white = whiteness(None, Of(visit=np.repeat([0, 1, 2], 36)))
    assert abs(white.sigma[0]) < 5.0
    assert white.pushed(np.array([0])) == 0.0
    assert white.push[1] < 0.03
    assert 0.06 < white.push[2] < 0.2
    assert white.sigma[1] > stars  # what grows with their number


def test_deep_visits_under_turbulence_are_not_weak(caplog):
    s = survey(10, 3, 4, stars_per_chip=300.0, turbulence_mas=30.0)
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        result = fit(s, doPhotometry=False, astrometryVisitOrder=3)
    table = result.image_quality
    assert result.metrics["astrometry_white_significance"] > 15.0
    assert result.astrometry.white.square.max() > 3.0
    assert not table.astrometry_torn.any()
    assert not table.astrometry_weak.any()
    assert "held by few stars" not in caplog.text


def test_a_visit_that_no_field_follows_is_marked_in_words_of_its_own(caplog):
    s = survey(5, 3, 4)
    made = under_cloud(s, lambda fx, fy: np.where(fx + 0.7 * fy > 3.0, 10**-0.2, 1.0))
    result = fit(made, doAstrometry=False, photometryVisitOrder=3)
    quality = result.image_quality
    assert set(quality.visit[quality.photometry_torn]) == {visits(s)[1]}
    assert quality.photometry_weak[quality.photometry_torn].all()
    published = result.photometry.quality.assign(lost=False)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "alertprod.jointcal"):
        report_weak("photometry", published)
    assert "of visits that no model follows" in caplog.text
    assert "held by few stars" not in caplog.text


@pytest.mark.parametrize(
    ("model", "factor"),
    [*(("constrainedMagnitude", f) for f in (3.0, 1e-3, 1e3)), *(("constrainedFlux", f) for f in (1e-3, 1e3))],
)
def test_any_zero_point_is_a_start(model, factor):
    s = survey(3)
    made = copy.copy(s)
    made.sources = [t.copy() for t in s.sources]
    for column in ("apFlux_12_0_instFlux", "apFlux_12_0_instFluxErr"):
        made.sources[3][column] *= factor
    result = fit(made, doAstrometry=False, photometryVisitOrder=3, photometryModel=model)
    assert result.metrics["converged"]
    errors = zero_point_errors(s, result, {visits(s)[3]: 2.5 * np.log10(factor)})
    assert np.abs(errors).max() < 20.0
    assert errors.std() < 4.0


def test_few_stars_lower_the_orders():
    s = simulate_mosaic(MosaicSettings(4, 2, 1))
    result = fit(s)
    assert (
        np.abs(zero_point_errors(s, result)).max() < 40.0
    )  # 40 stars a visit; a field of order 7 was off by magnitudes
    assert max(wcs_errors(s, result).values()) < 20.0


def test_a_visit_under_broken_cloud_is_not_published():
    s = survey(3)
    made = under_cloud(s, lambda fx, fy: 10 ** (-0.2 * (1 + np.tanh(4 * np.sin(fx / 4.0)))))
    result = fit(made, doAstrometry=False, photometryVisitOrder=3)
    assert not result.metrics["converged"]
    assert {v for v, _ in result.outputPhotoCalib} == set(visits(s)) - {visits(s)[1]}
    assert np.abs(zero_point_errors(s, result)).max() < 25.0


def test_what_no_fit_can_take_is_refused_with_what_to_change():
    s = survey(motion_mas=20.0)
    with pytest.raises(JointCalibrationError, match=r"proper motions .* but no column epoch"):
        fit(s, s.references.drop(columns="epoch"), doPhotometry=False)
    with pytest.raises((JointCalibrationError, SingularFit), match="reference star"):
        fit(s, s.references.sort_values("z_flux").head(12), doPhotometry=False)
    mixed = summaries(s)
    mixed[2].table["physical_filter"] = "HSC-R"
    with pytest.raises(JointCalibrationError, match=rf"visit {visits(s)[2]}.*2 filters \(HSC-R, HSC-Z\)|2 filters"):
        JointFit(config(), s.references, s.references).run(s.sources, mixed, s.camera)


def test_a_small_survey_costs_little_beside_its_arithmetic():
    s, calls = simulate_mosaic(MosaicSettings(5, 4, 9, 20.0)), 0
    task = JointFit(config(), s.references, s.references)
    given = s.sources, summaries(s), s.camera
    task.run(*given)

    def count(frame, event, arg):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        task.run(*given)
    finally:
        sys.setprofile(None)
    assert 20_000 < calls < 90_000  # calls of Python functions: the same on a busy machine
