"""The two halves of a joint fit, from arrays to a finished `Half`."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from calibration.joint.config import JointcalConfig
from calibration.joint.model.build_astrometry import AstrometryBuilder
from calibration.joint.model.build_photometry import PhotometryBuilder
from calibration.joint.model.data import Images, Measurements
from calibration.joint.model.references import References
from calibration.joint.model.stars import Associated, associate, split_stars
from calibration.joint.result import Half, astrometric_scatter, photometric_scatter
from calibration.joint.solve.debug import Watch
from calibration.joint.solve.fit import FitReport, FitSettings, chi2_cut, fit
from calibration.joint.solve.minimize import evaluate
from exposure.camera import Camera
from tasks.arrays import Flags

__all__ = ["fit_astrometry", "fit_photometry"]

log = logging.getLogger("alertprod.jointcal")
Progress = Callable[[str, float, int], None] | None


def _associated(images: Images, m: Measurements, references: References, config: JointcalConfig) -> Associated:
    return associate(
        images, m, references, config.matchCut, config.minMeasurements,
        (config.minMeasuredStarsPerCcd, config.minRefStarsPerCcd),
    )  # fmt: skip


def _present(images: Images, a: Associated) -> tuple[Images, Associated]:
    """Leave out the images that have no measurement left, by name."""
    count = np.bincount(a.measurements.image, minlength=len(images))
    if (count > 0).all():
        return images, a
    for i in np.flatnonzero(count == 0):
        log.warning(
            "%s: no star of this image is seen elsewhere or has a reference star: left out", images.said(int(i))
        )
    keep = np.flatnonzero(count > 0)
    new = np.full(len(images), -1, np.int64)
    new[keep] = np.arange(keep.size)
    a.measurements.image = new[a.measurements.image]
    a.registration = a.registration.take(keep)
    return images.take(keep), a


def fit_astrometry(
    images: Images, measurements: Measurements, references: References, camera: Camera, config: JointcalConfig,
    progress: Progress = None, tag: str = "",
) -> tuple[Images, Half]:  # fmt: skip
    """Fit the maps of all images and the places of all stars.

    Returns
    -------
    images, half
        The images that were fitted, and the result.

    `tag` is ``TRACT_FILTER`` in the names of debug files.
    """
    images, a = _present(images, _associated(images, measurements, references, config))
    builder = AstrometryBuilder.start(images, a, camera, config)
    which, held = split_stars(a, config.validationFraction)
    problem = builder.problem(a, which, config)
    _drop_impossible(problem, images)
    outer = np.arange(builder.layout.size) < builder.layout.inner_start
    constrained = config.astrometryModel == "constrained"
    stages: list[tuple[str, bool, Flags | None]] = [("DistortionsVisit", False, outer)] if constrained else []
    stages += [("Distortions", False, None), ("Positions", True, np.zeros_like(outer))]
    report = fit(
        problem, _settings(config, stages, "DistortionsPositions", "astrometry"), progress,
        watch=Watch(config, "astrometry", tag, images, a),
    )  # fmt: skip
    half = Half(a, problem, None, which, held, report, builder)
    inner, outside = astrometric_scatter(problem, a, which)
    half.metrics = _counts("astrometry", images, a, report) | {"relative_rms_mas": inner, "absolute_rms_mas": outside}
    if held.size:
        free = builder.problem(a, held, config, use_references=False)
        chi2, ndof = _held_chi2(free, config)
        half.held = builder.problem(a, held, config)
        half.held.kept = free.kept
        evaluate(half.held)
        inner, _ = astrometric_scatter(free, a, held)
        half.metrics |= {
            "astrometry_validation_chi2_per_ndof": chi2 / max(ndof, 1), "astrometry_validation_relative_rms_mas": inner,
            "astrometry_validation_absolute_rms_mas": _held_absolute(builder, a, held, config),
        }  # fmt: skip
    return images, half


def fit_photometry(
    images: Images, measurements: Measurements, references: References, camera: Camera, config: JointcalConfig,
    progress: Progress = None, tag: str = "",
) -> tuple[Images, Half]:  # fmt: skip
    """Fit the calibrations of all images and the fluxes of all stars.

    Returns
    -------
    images, half
        The images that were fitted, and the result.
    """
    images, a = _present(images, _associated(images, measurements, references, config))
    builder = PhotometryBuilder.start(images, camera, config)
    which, held = split_stars(a, config.validationFraction)
    problem = builder.problem(a, which, config)
    fields = np.arange(builder.layout.size) < builder.layout.scale_start
    stages: list[tuple[str, bool, Flags | None]] = []
    if builder.layout.order >= 0:
        stages.append(("ModelVisit", False, fields))
    stages += [("Model", False, None), ("Fluxes", True, np.zeros_like(fields)), ("ModelFluxes", True, None)]
    report = fit(
        problem, _settings(config, stages, "Final", "photometry"), progress, builder.check, problem.freeze_errors,
        Watch(config, "photometry", tag, images, a),
    )  # fmt: skip
    half = Half(a, problem, None, which, held, report, builder)
    half.metrics = _counts("photometry", images, a, report) | {
        "repeatability_mmag": photometric_scatter(problem, a, which)
    }
    if held.size:
        half.held = builder.problem(a, held, config, use_references=False)
        half.held.freeze_errors()
        chi2, ndof = _held_chi2(half.held, config)
        half.metrics |= {
            "photometry_validation_chi2_per_ndof": chi2 / max(ndof, 1),
            "photometry_validation_repeatability_mmag": photometric_scatter(half.held, a, held),
        }
    return images, half


def _settings(config: JointcalConfig, stages: list[Any], label: str, half: str) -> FitSettings:
    return FitSettings(
        tuple(stages), label, config.outlierRejection, config.outlierRejectSigma,
        config.astrometryOutlierRelativeTolerance if half == "astrometry" else 0.0,
        config.maxAstrometrySteps if half == "astrometry" else config.maxPhotometrySteps,
    )  # fmt: skip


def _counts(prefix: str, images: Images, a: Associated, report: FitReport) -> dict[str, float]:
    return {
        f"{prefix}_matched_fittedStars": a.matched, f"{prefix}_collected_refStars": len(a.references),
        f"{prefix}_prepared_refStars": int((a.stars.reference >= 0).sum()),
        f"{prefix}_prepared_fittedStars": len(a.stars), f"{prefix}_prepared_ccdImages": len(images),
        f"{prefix}_final_chi2": report.chi2, f"{prefix}_final_ndof": report.ndof,
        f"{prefix}_n_outliers": report.n_outliers, f"{prefix}_converged": report.converged,
    }  # fmt: skip


def _drop_impossible(problem: Any, images: Images) -> None:
    """Leave out measurements whose propagated covariance is not positive definite."""
    rows = problem.rows(0, problem.offsets.size - 1) if problem.image.size < 200_000 else None
    if rows is None:
        return
    bad = rows.weight[:, 0, 0] <= 0
    if bad.any():
        log.warning(
            "%d measurements have no usable covariance (first: %s)", bad.sum(), images.said(int(rows.group[bad][0]))
        )
        problem.kept &= ~bad


def _held_chi2(problem: Any, config: JointcalConfig) -> tuple[float, int]:
    """Chi2 and degrees of freedom of held-out stars about their own best places; the worst 5 sigma left out once."""
    for _ in range(4):
        found = evaluate(problem)
        found = evaluate(problem)
        cut = chi2_cut(config.outlierRejectSigma, problem.dimension)
        own = found.chi2 / np.maximum(1 - found.leverage, 0.05)
        gone = problem.kept & (own > cut) & (found.leverage < 0.95)
        if not gone.any():
            break
        star = problem.star_index
        worst = np.full(problem.offsets.size - 1, -1.0)
        np.maximum.at(worst, star[gone], own[gone])
        problem.kept &= ~(gone & (own == worst[star]))
        left = np.bincount(star[problem.kept], minlength=worst.size)
        problem.kept &= left[star] >= 2
    stars = int((found.star_inverse[:, 0, 0] > 0).sum())
    return float(found.chi2.sum()), problem.dimension * int(problem.kept.sum()) - problem.n_star * stars


def _held_absolute(builder: AstrometryBuilder, a: Associated, held: Any, config: JointcalConfig) -> float:
    """Rms per axis (mas) of held-out stars, placed by their measurements alone, about their reference stars."""
    tied = held[a.stars.reference[held] >= 0]
    if not tied.size:
        return float("nan")
    problem = builder.problem(a, tied, config)
    problem.stars.prior[:, :2, :2] = 0.0
    for _ in range(2):
        evaluate(problem)
    off = 1e3 * problem.stars.coordinates[:, :2]
    return float(1.4826 * np.median(np.abs(off)))
