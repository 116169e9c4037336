"""The two halves of a joint fit, from arrays to a finished `Half`."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from calibration.errors import JointCalibrationError, SingularFit
from calibration.joint.atmosphere.fields import fit_fields
from calibration.joint.config import JointcalConfig
from calibration.joint.data import Images, Measurements
from calibration.joint.held_out import held_absolute, held_chi2
from calibration.joint.image_quality import image_table
from calibration.joint.matching.references import References
from calibration.joint.matching.register import Registration
from calibration.joint.matching.stars import Associated, associate, split_stars, without_untied
from calibration.joint.model.astrometry import AstrometryProblem
from calibration.joint.model.build_astrometry import AstrometryBuilder, build_wcs
from calibration.joint.model.build_photometry import PhotometryBuilder, build_calibrations
from calibration.joint.result import AstrometryHalf, PhotometryHalf, astrometric_scatter, photometric_scatter
from calibration.joint.solve.debug import Watch
from calibration.joint.solve.draws import parameter_draws, taken_degrees
from calibration.joint.solve.fit import FitReport, FitSettings, Hooks, Progress, Stage, fit
from calibration.joint.solve.minimize import evaluate
from calibration.joint.whiteness import whiteness
from exposure import PhotoCalib
from exposure.camera import Camera
from exposure.wcs.mapped import ComposedWcs
from tasks.arrays import I64

__all__ = ["FitInputs", "calibrations", "fit_astrometry", "fit_photometry"]

log = logging.getLogger("alertprod.jointcal")
_GAINED = 0.01  # of the measurements, matched beside the others once the maps are known: then all is fitted again
_LEAST_GAINED = 5
_ROUNDS = 3
_PUSHED, _PUSHED_SHARE = 8.0, 5.0  # sigma, and times the quietest third of the chips: turbulence pushes all of them
_MOST_MOVED = 0.67  # of the chips: some tell where the others moved to
_CHIP_ROUNDS = 6  # chips that moved little stand out once those that moved far have maps of their own
_WEAK = 0.25  # of the images, held by few stars: by such a fit nothing is matched again
_NAMED = 5
_LEAST_MOVED = 10  # matched measurements of an image whose chip may have moved
LARGEST_CHECKED = 200_000  # measurements that are linearised at once


def _present(images: Images, a: Associated) -> tuple[Images, Associated]:
    """Leave out the images that have no measurement left, by name."""
    count = np.bincount(a.measurements.image, minlength=len(images))
    if (count > 0).all():
        return images, a
    for i in np.flatnonzero(count == 0):
        log.warning(
            "%s: no star of this image is seen elsewhere or has a reference star: left out", images.label(int(i))
        )
    keep = np.flatnonzero(count > 0)
    new = np.full(len(images), -1, np.int64)
    new[keep] = np.arange(keep.size)
    measurements = replace(a.measurements, image=new[a.measurements.image])
    return images.take(keep), replace(a, measurements=measurements, registration=a.registration.take(keep))


@dataclass(frozen=True)
class FitInputs:
    """What one half of a joint fit needs.

    Parameters
    ----------
    tag
        ``TRACT_FILTER`` in the names of debug files.
    progress
        Called with (label, chi2, ndof) after each stage and round.
    registered
        The WCS of all images are fitted ones.
    fitted, registration
        WCS by (visit, detector) of a first fit, by which stars are matched, and how that fit moved the images onto the reference
        stars; the maps still start from the input.
    trusted
        How far the terms of second order of a map may be from the input WCS at the least, arcsec.
    need
        ``astrometry`` (images without a time are left out, where reference stars move) or ``photometry``.
    """

    images: Images
    measurements: Measurements
    references: References
    camera: Camera
    config: JointcalConfig
    tag: str = ""
    progress: Progress | None = None
    registered: bool = False
    fitted: Mapping[tuple[int, int], ComposedWcs] | None = None
    registration: Registration | None = None
    trusted: float = 0.0
    need: str = "photometry"

    @cached_property
    def associated(self) -> tuple[Images, Associated]:
        """The images that have a measurement of a star, and the stars."""
        model = self.config.astrometryModel if self.need == "astrometry" else self.config.photometryModel
        parts = np.arange(len(self.images)) if model.startswith("simple") else self.images.visit
        return _present(self.images, without_untied(self.images, self.matched, parts))

    @cached_property
    def matched(self) -> Associated:
        """The stars on all images."""
        c = self.config
        measurements = self._timed() if self.need == "astrometry" else self.measurements
        images, registered, warn = self.images, self.registered, (c.minMeasuredStarsPerCcd, c.minRefStarsPerCcd)
        if self.fitted is not None:
            places = [self.fitted.get(images.key(i), images.wcs[i]) for i in range(len(images))]
            images, registered, warn = replace(images, wcs=places), True, (0, 0)
        a = associate(images, measurements, self.references, c.matchCut, c.minMeasurements, warn, registered)
        return a if self.registration is None else replace(a, registration=self.registration)

    def _timed(self) -> Measurements:
        """Return the measurements of the images whose time is known, where reference stars move; others are left out by name."""
        untimed = np.flatnonzero(~np.isfinite(self.images.mjd_tai))
        if not untimed.size or not self.references.motion.any():
            return self.measurements
        listed = ", ".join(self.images.label(int(i)) for i in untimed[:_NAMED])
        words = f"{untimed.size} of {len(self.images)} images have no time, and reference stars move"
        mend = f"give midpoint_mjd_tai (MJD-OBS), or set astrometryRefs.applyProperMotion=False ({listed})"
        if untimed.size == len(self.images):
            raise JointCalibrationError(f"{words}: {mend}")
        if self.fitted is None:
            log.warning("%s: left out; %s", words, mend)
        return self.measurements.take(~np.isin(self.measurements.image, untimed))


def fit_astrometry(inputs: FitInputs) -> tuple[Images, AstrometryHalf]:
    """Fit the maps of all images and the positions of all stars.

    Where headers were rough, stars are matched once more by the fitted maps, and all is fitted again if that finds more of
    them. Where the chip maps that all visits share do not hold for some images, which then lose their data, these get chip maps
    of their own (a chip that moved between visits), and all is fitted again.

    Returns
    -------
    images, half
        The images that were fitted, and the result.
    """
    images, half = _fit_astrometry(inputs, frozenset())
    rough = half.associated.registration
    for _ in range(_ROUNDS if rough.affine.any() and not rough.lost else 0):
        closer = _matched_again(inputs, half)
        if closer is None:
            break
        inputs = closer
        images, half = _fit_astrometry(inputs, frozenset())
    own: frozenset[tuple[int, int]] = frozenset()
    for _ in range(_CHIP_ROUNDS if inputs.config.astrometryModel == "constrained" else 0):
        moved = (_moved_chips(half.quality) - own) or (_pushed_chips(half, images, own) - own)
        if not moved or len({d for _, d in own | moved}) > _MOST_MOVED * np.unique(images.detector).size:
            break
        listed = ", ".join(f"visit {v} detector {d}" for v, d in sorted(moved)[:10])
        log.warning("%d images do not follow the chip maps of the others and get their own: %s", len(moved), listed)
        own |= moved
        images, half = _fit_astrometry(inputs, own)
    return images, half


def _matched_again(inputs: FitInputs, half: AstrometryHalf) -> FitInputs | None:
    """Return the inputs with stars matched by the maps of a fit; None where that finds no more of them than before.

    An affine map of few stars, by which an image of rough header was brought near, may lie an arcsec off in its corners.
    """
    if (
        half.quality.weak & ~half.quality.torn
    ).mean() > _WEAK:  # no ground to match by; where stars are off together is some
        return None
    fitted, registration = build_wcs(half.builder), inputs.matched.registration
    closer = replace(inputs, fitted=fitted, registration=registration, trusted=half.builder.trusted)
    before, after = len(half.associated.measurements.image), len(closer.matched.measurements.image)
    if after - before < max(_LEAST_GAINED, _GAINED * before):
        return None
    log.warning(
        "%d measurements were matched by rough headers and %d are by the fitted maps: fitted again", before, after
    )
    return closer


def _moved_chips(table: pd.DataFrame) -> frozenset[tuple[int, int]]:
    """Return (visit, detector) of all images of the chips of which one stands out, unless most of its visit does."""
    again = table.groupby("detector").visit.transform("nunique").to_numpy() > 1
    suspect = table.suspect.to_numpy() & (table.matched.to_numpy() >= _LEAST_MOVED) & again
    share = pd.Series(suspect).groupby(table.visit.to_numpy()).transform("mean").to_numpy()
    of = table[table.detector.isin(table.detector[suspect & (share < 0.5)])]
    if of.detector.nunique() > table.detector.nunique() / 2:
        return frozenset()
    return frozenset(zip(of.visit.tolist(), of.detector.tolist(), strict=True))


def _pushed_chips(half: AstrometryHalf, images: Images, own: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """Return (visit, detector) of all images of the chips whose residuals push their images back and forth, far more than others'.

    A chip that moved by a part of a pixel between visits loses nothing as outliers: each image is off by half of the step.
    """
    white, shared = half.white, np.array([images.key(i) not in own for i in range(len(images))])
    if white is None or not shared.any():
        return frozenset()
    detectors, chip = np.unique(images.detector, return_inverse=True)
    push = np.bincount(chip[shared], white.whole[shared], detectors.size)
    degrees = half.problem.dimension * np.bincount(chip[shared], white.whole[shared] > 0, detectors.size)
    loud = (push > degrees + _PUSHED * np.sqrt(2.0 * degrees)) & (degrees > half.problem.dimension)
    # chips with maps of their own alone are pushed by nothing and say nothing of what is usual; of the others many may have moved
    loud &= push > _PUSHED_SHARE * np.quantile(push[degrees > 0], 1.0 - _MOST_MOVED)
    if not loud.any():
        return frozenset()
    worst = detectors[loud & (push > 0.5 * push[loud].max())]
    return frozenset(images.key(int(i)) for i in np.flatnonzero(np.isin(images.detector, worst)))


def _fit_astrometry(inputs: FitInputs, own_chips: frozenset[tuple[int, int]]) -> tuple[Images, AstrometryHalf]:
    """Fit once; the images of `own_chips` (visit, detector) have chip maps of their own."""
    config = inputs.config
    images, a = inputs.associated
    builder = AstrometryBuilder.start(images, a, inputs.camera, config, own_chips, inputs.trusted)
    which, held = split_stars(a, config.validationFraction)
    problem = builder.problem(a, which, config)
    _drop_impossible(problem, images)
    outer = np.arange(builder.layout.size) < builder.layout.inner_start
    constrained = config.astrometryModel == "constrained"
    stages: list[Stage] = [("DistortionsVisit", False, outer)] if constrained else []
    stages += [("Distortions", False, None), ("Positions", True, np.zeros_like(outer))]
    hooks = Hooks(inputs.progress, watch=Watch(config, "astrometry", inputs.tag, images))
    with _few_references(a, builder):
        report = fit(problem, _settings(config, stages, "DistortionsPositions", "astrometry"), hooks)
    draws = parameter_draws(problem)
    report.ndof -= taken_degrees(problem, draws)
    told = _atmosphere(a, problem, held, builder, config) if config.fitAtmosphere else {}
    half = AstrometryHalf(a, problem, None, which, held, report, builder, draws=draws)
    half.metrics = _counts("astrometry", images, a, report) | told
    half.metrics |= {"relative_rms_mas": astrometric_scatter(problem, a, which)}
    if held.size:
        _validate_astrometry(half, config)
    half.white = whiteness(half, images)
    half.quality = image_table(half, images, inputs.images, inputs.measurements, config.maxWcsError)
    return images, half


def _atmosphere(
    a: Associated, problem: AstrometryProblem, held: I64, builder: AstrometryBuilder, config: JointcalConfig
) -> dict[str, float]:
    """Give the builder the displacement fields of its visits, judged by the stars `held`; return numbers of them."""
    return fit_fields(builder, problem, builder.problem(a, held, config) if held.size else None)


@contextmanager
def _few_references(a: Associated, builder: AstrometryBuilder) -> Iterator[None]:
    """Say of a fit that is not determined, where reference stars are few, that it is for them."""
    try:
        yield
    except SingularFit as error:
        tied, needed = int((a.stars.reference >= 0).sum()), builder.layout.lengths[0] // 2
        if tied >= 2 * needed:
            raise
        raise SingularFit(
            f"{error}; only {tied} stars have a reference star, and maps of {needed} terms want about {2 * needed}: take a "
            "deeper reference catalogue, or lower astrometryVisitOrder (astrometrySimpleOrder)"
        ) from error


def _validate_astrometry(half: AstrometryHalf, config: JointcalConfig) -> None:
    """Judge the maps by the stars that were held out."""
    a, held, builder = half.associated, half.held_which, half.builder
    free = builder.problem(a, held, config, use_references=False)
    chi2, ndof = held_chi2(free, config)
    half.held = builder.problem(a, held, config)
    half.held.kept = free.kept
    evaluate(half.held)
    inner = astrometric_scatter(free, a, held)
    half.metrics |= {
        "astrometry_validation_chi2_per_ndof": chi2 / ndof if ndof > 0 else float("nan"),
        "astrometry_validation_relative_rms_mas": inner,
        "astrometry_validation_absolute_rms_mas": held_absolute(builder, a, held, config),
    }


def fit_photometry(inputs: FitInputs) -> tuple[Images, PhotometryHalf]:
    """Fit the calibrations of all images and the fluxes of all stars.

    Returns
    -------
    images, half
        The images that were fitted, and the result.
    """
    config = inputs.config
    images, a = inputs.associated
    builder = PhotometryBuilder.start(images, a, inputs.camera, config)
    which, held = split_stars(a, config.validationFraction)
    problem = builder.problem(a, which, config)
    fields = np.arange(builder.layout.size) < builder.layout.scale_start
    stages: list[Stage] = [("ModelVisit", False, fields)] if builder.layout.order >= 0 else []
    stages += [("Model", False, None), ("Fluxes", True, np.zeros_like(fields)), ("ModelFluxes", True, None)]
    watch = Watch(config, "photometry", inputs.tag, images)
    hooks = Hooks(inputs.progress, builder.check, problem.freeze_errors, watch)
    report = fit(problem, _settings(config, stages, "Final", "photometry"), hooks)
    half = PhotometryHalf(a, problem, None, which, held, report, builder, draws=parameter_draws(problem))
    repeatability = photometric_scatter(problem, a, which)
    half.metrics = _counts("photometry", images, a, report) | {"repeatability_mmag": repeatability}
    if held.size:
        half.held = builder.problem(a, held, config, use_references=False)
        half.held.freeze_errors()
        chi2, ndof = held_chi2(half.held, config)
        half.metrics |= {
            "photometry_validation_chi2_per_ndof": chi2 / ndof if ndof > 0 else float("nan"),
            "photometry_validation_repeatability_mmag": photometric_scatter(half.held, a, held),
        }
    half.white = whiteness(half, images)
    half.quality = image_table(half, images, inputs.images, inputs.measurements, config.maxCalibrationError)
    return images, half


def calibrations(half: PhotometryHalf) -> dict[tuple[int, int], PhotoCalib]:
    """Return the calibration of every image of a finished half, with the fit's own error of its mean."""
    table = half.quality
    keys = zip(table.visit.tolist(), table.detector.tolist(), strict=True)
    return build_calibrations(half.builder, dict(zip(keys, table.mean_error.tolist(), strict=True)))


def _settings(config: JointcalConfig, stages: list[Stage], label: str, half: str) -> FitSettings:
    return FitSettings(
        tuple(stages),
        label,
        config.outlierRejection,
        config.outlierRejectSigma,
        config.astrometryOutlierRelativeTolerance if half == "astrometry" else 0.0,
        config.maxAstrometrySteps if half == "astrometry" else config.maxPhotometrySteps,
        config.allowLineSearch,
    )


def _counts(prefix: str, images: Images, a: Associated, report: FitReport) -> dict[str, float]:
    return {
        f"{prefix}_matched_fittedStars": a.matched,
        f"{prefix}_collected_refStars": len(a.references),
        f"{prefix}_prepared_refStars": int((a.stars.reference >= 0).sum()),
        f"{prefix}_kept_refStars": report.n_references_kept,
        f"{prefix}_prepared_fittedStars": len(a.stars),
        f"{prefix}_prepared_ccdImages": len(images),
        f"{prefix}_final_chi2": report.chi2,
        f"{prefix}_final_ndof": report.ndof,
        f"{prefix}_n_outliers": report.n_outliers,
        f"{prefix}_converged": report.converged,
    }


def _drop_impossible(problem: AstrometryProblem, images: Images) -> None:
    """Leave out measurements whose propagated covariance is not positive definite."""
    if problem.image.size >= LARGEST_CHECKED:
        return
    rows = problem.light(0, problem.offsets.size - 1).rows
    bad = rows.weight[:, 0, 0] <= 0
    if bad.any():
        log.warning(
            "%d measurements have no usable covariance (first: %s)", bad.sum(), images.label(int(rows.group[bad][0]))
        )
        problem.kept &= ~bad
