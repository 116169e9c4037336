"""Every image answers for itself: how many of its sources are matched and kept, and how well the kept ones fit.

What contradicts a model goes as an outlier, and chi2 is then as good as ever: so the share of what is kept is judged, image
by image, against that of the others.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from calibration.joint.data import Images, Measurements
from calibration.joint.formal_errors import calibration_errors, wcs_errors
from calibration.joint.model.build_astrometry import AstrometryBuilder
from calibration.joint.result import AstrometryHalf, PhotometryHalf, residuals
from calibration.joint.solve.minimize import evaluate
from tasks.arrays import F64, I64, Flags

__all__ = ["by_image", "image_table", "report_images", "report_weak"]

log = logging.getLogger("alertprod.jointcal")
LEAST_KEPT = 0.5  # of the typical kept share: below it the image lost its data
LEAST_SOURCES = 5  # an image with fewer has nothing to lose
LOW_KEPT = 0.8  # of the typical kept share: below it a warning
LOW_MATCHED = 0.5  # of the typical share of sources with a reference star
LEAST_ODD, ODD_SHARE = 3, 0.3  # images of a visit that stand out: with more, one of which lost its data, all are lost
LEAST_TOLD = 10  # kept measurements of an image; with fewer it is weak
BAD_FIT = 4.0  # chi2 per degree of freedom above which a model is not that of its data
VISIT_KEPT = 0.9  # of the share that the best visit keeps: below it, and not white, a visit is clouded
VISIT_CHI2 = 1.5  # times the chi2 of a typical visit: above it, and not white, a visit is clouded too
HIGH_CHI2 = 2.0  # times the typical chi2 per degree of freedom
_SIGMA = 5.0
_OF_BOTH = ("visit", "detector", "sources")
_NAMED = 10


def image_table(
    half: AstrometryHalf | PhotometryHalf,
    images: Images,
    given: Images,
    measurements: Measurements,
    largest_error: float = np.inf,
) -> pd.DataFrame:
    """Return one row for each image that was given.

    Parameters
    ----------
    half
        A finished half of the fit, of `images`.
    given, measurements
        All images, and their sources.
    largest_error
        Error above which an image is weak: px of its WCS, or mag of its calibration.

    Returns
    -------
    table
        visit, detector; sources, matched (to a star of the fit), referenced (to one with a reference star), kept; rms of what
        is kept about the stars (arcsec; mag or nJy), corrected for the stars' own errors; chi2_per_dof (NaN without any);
        formal_error of the WCS (arcsec per axis) or of the calibration (mag), as large as chi2 says, and as the sums of the
        residuals of its visit say where these are not white; mean_error, of fluxes: that of the mean calibration of the image; torn: what neighbouring residuals of its visit have in common is
        larger than `largest_error`; weak: it is torn, its error is too large, the image keeps few measurements or stands out
        (suspect), or a bad fit holds some terms of its map; clouded: no field follows the calibration of its visit; lost: hardly
        anything of what was matched is kept, or nothing at all; suspect: it is lost, keeps a far smaller share than others, or
        fits far worse.
    """
    columns = _counts(half, len(images)) | _formal_errors(half, images, largest_error)
    table = pd.DataFrame(
        {"visit": given.visit, "detector": given.detector}
        | {"sources": np.bincount(measurements.image, minlength=len(given))}
        | _of_given(columns, images, given)
    )
    # of few measurements none can be told as an outlier by the others
    table["weak"] |= (table.kept < LEAST_TOLD) & (table.kept > 0)
    table["clouded"] = np.isin(given.visit, _clouded(half, table))
    # what stands out is named; where half of a visit does, as on a wrong registration, the others are no better
    matched, kept = (table[name].to_numpy(np.float64) for name in ("matched", "kept"))
    low = _low(kept, matched, LOW_KEPT) | _bad_fit(table)
    table["lost"] = _lost(table, low)
    table["suspect"] = table.lost | low
    lonely = _low(matched, table.sources.to_numpy(np.float64), LOW_MATCHED)
    suspect = table.suspect.to_numpy() | lonely
    _, of = np.unique(table.visit, return_inverse=True)
    table["weak"] |= suspect | (_share(suspect, of) >= 0.5)
    return table


def _counts(half: AstrometryHalf | PhotometryHalf, n: int) -> "dict[str, np.ndarray[Any, Any]]":
    """Return what each of the `n` images of a half matches and keeps, and how well it fits, by name of the column."""
    matched, referenced, kept, chi2, freedom, squares = (np.zeros(n) for _ in range(6))
    has_reference = half.associated.stars.reference >= 0
    for problem, which, _ in half.parts():
        evaluation = evaluate(problem)
        residual = residuals(problem)[0]
        image, use = problem.image, problem.kept
        free = problem.dimension * (1.0 - evaluation.leverage)
        matched += np.bincount(image, minlength=n)
        referenced += np.bincount(image[has_reference[which][problem.star_index]], minlength=n)
        kept += np.bincount(image[use], minlength=n)
        chi2 += np.bincount(image[use], evaluation.chi2[use], n)
        freedom += np.bincount(image[use], free[use], n)
        squares += np.bincount(image[use], (residual[use] ** 2).sum(1), n)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_degree = np.where(freedom >= 1, chi2 / freedom, np.nan)
        rms = np.where(freedom >= 1, np.sqrt(squares / freedom), np.nan)
    out: dict[str, np.ndarray[Any, Any]] = {
        name: count.astype(np.int64)
        for name, count in (("matched", matched), ("referenced", referenced), ("kept", kept))
    }
    return out | {"rms": rms, "chi2_per_dof": per_degree}


def _of_given(
    columns: "Mapping[str, np.ndarray[Any, Any]]", images: Images, given: Images
) -> "dict[str, np.ndarray[Any, Any]]":
    """Return columns (I,) of `images` as columns of the images that were given: 0, False or NaN for those that are not fitted."""
    number = {given.key(i): i for i in range(len(given))}
    row = [number[images.key(i)] for i in range(len(images))]
    out = {}
    for name, values in columns.items():
        out[name] = np.full(len(given), np.nan if values.dtype == np.float64 else 0, values.dtype)
        out[name][row] = values
    return out


def _clouded(half: AstrometryHalf | PhotometryHalf, table: pd.DataFrame) -> list[int]:
    """Return the visits whose fluxes no field follows: more goes as outliers than elsewhere or chi2 is far above that of the
    others, and what is left is not white.

    A cloud with a sharp edge is taken by the field as far as it goes, and its edge by the rejection: image by image little
    stands out.
    """
    white = half.white
    if isinstance(half.builder, AstrometryBuilder) or white is None:
        return []
    of = np.searchsorted(white.visits, table.visit)  # images of visits that are not fitted keep and match nothing
    of = np.minimum(of, white.visits.size - 1)
    kept, matched = (np.bincount(of, table[name], white.visits.size) for name in ("kept", "matched"))
    share = kept / np.maximum(matched, 1)
    usual = np.nanmedian(white.chi2)
    odd = (share < VISIT_KEPT * share.max()) | (np.nan_to_num(white.chi2) > VISIT_CHI2 * usual)
    clouded = white.visits[(np.nan_to_num(white.sigma) > _SIGMA) & odd]
    for visit in clouded:
        log.warning(
            "photometry: no field follows the fluxes of visit %d, as under a cloud with sharp edges: left out", visit
        )
    return [int(visit) for visit in clouded]


def _formal_errors(
    half: AstrometryHalf | PhotometryHalf, images: Images, largest: float
) -> "dict[str, np.ndarray[Any, Any]]":
    """Return columns (I,): formal_error of each image, as large as chi2 says, of fluxes also mean_error, that of its mean
    calibration; weak, where it is above `largest` px or mag; torn, where what neighbouring residuals of its visit have in common
    is.

    NaN, and not too large, where the errors of the model are not known.
    """
    draws = np.full((half.problem.parameters.size, 1), np.nan) if half.draws is None else half.draws
    if isinstance(half.builder, AstrometryBuilder):
        error, unit = wcs_errors(half.builder, draws)
        errors = {"formal_error": error}
    else:
        error, of_mean = calibration_errors(half.builder, draws)
        errors, unit = {"formal_error": error, "mean_error": of_mean}, np.ones(len(images))
    larger = np.full(len(images), np.sqrt(max(half.report.per_degree, 1.0)))
    torn = np.zeros(len(images), bool)
    if half.white is not None:
        larger = larger * half.white.growth(images.visit)
        torn = np.asarray(half.white.pushed(images.visit) > largest * unit)
    errors = {name: values * larger for name, values in errors.items()}
    # what is held of the maps of a bad fit, at the header's or at nothing, is the first suspect
    wrong = half.report.per_degree > BAD_FIT and half.draws is not None
    weak = (errors["formal_error"] > largest * unit) | (wrong & _held(half)) | torn
    return errors | {"weak": np.asarray(weak), "torn": torn}


def _held(half: AstrometryHalf | PhotometryHalf) -> Flags:
    """Return the images (I,) of whose outer map (of whose visit's field) some terms are held."""
    builder = half.builder
    if isinstance(builder, AstrometryBuilder):
        of, end = builder.layout.outer, builder.layout.inner_start
    else:
        of, end = builder.layout.field, builder.layout.scale_start
    if not end:
        return np.zeros(of.size, bool)
    complete: Flags = np.asarray(builder.parameters.fitted[:end].reshape(int(of.max()) + 1, -1).all(1))
    return np.asarray(~complete[of])


def _low(have: F64, out_of: F64, limit: float) -> Flags:
    """Return where the share have/out_of (I,) is below `limit` times the typical one, by more than chance."""
    some = out_of > 0
    if not some.any():
        return np.zeros(len(have), bool)
    typical = float(np.median(have[some] / out_of[some]))
    expected = typical * out_of
    return np.asarray(
        some & (have < limit * expected) & (have < expected - _SIGMA * np.sqrt(expected * (1.0 - typical) + 1.0))
    )


def _lost(table: pd.DataFrame, low: Flags) -> Flags:
    """Return which images (I,) lost their data: hardly anything of what was matched is kept, or nothing at all; `low` (I,) are
    those that keep a small share or fit badly.
    """
    sources, matched, kept = (table[name].to_numpy(np.float64) for name in ("sources", "matched", "kept"))
    lost = ((kept == 0) & (sources >= LEAST_SOURCES)) | _low(kept, matched, LEAST_KEPT)
    # where most images of a visit contradict the fit the others only seem to follow it
    _, of = np.unique(table.visit, return_inverse=True)
    weak, some = _share(lost | _low(kept, matched, LOW_KEPT), of), _share(lost, of)
    # a sharp edge leaves images beside it that fit badly: what the model makes of the others is no better
    odd = lost | low
    torn = (np.bincount(of, odd)[of] >= LEAST_ODD) & (_share(odd, of) > ODD_SHARE) & (some > 0)
    return np.asarray(lost | ((weak > 0.5) & (some > 0.2)) | torn | table.clouded.to_numpy())


def _share(which: Flags, of: I64) -> F64:
    """Return the share (I,) of the images of the same visit (its index is `of` (I,)) that are in `which` (I,)."""
    return np.asarray((np.bincount(of, which) / np.maximum(np.bincount(of), 1))[of])


def by_image(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of both halves, of the same images, beside each other: visit, detector, sources, and HALF_matched and
    so on.

    HALF_lost says which images lost their data: they are not published unless asked for.
    """
    out: dict[str, pd.Series] = {}
    for half, table in tables.items():
        out |= {name: table[name] for name in _OF_BOTH}
        out |= {f"{half}_{name}": table[name] for name in table.columns if name not in (*_OF_BOTH, "suspect")}
    return pd.DataFrame(out)


def _bad_fit(table: pd.DataFrame) -> Flags:
    """Return which images (I,) have a chi2 per degree of freedom far above the typical one."""
    chi2, kept = table.chi2_per_dof.to_numpy(np.float64), table.kept.to_numpy(np.float64)
    if not np.isfinite(chi2).any():
        return np.zeros(len(table), bool)
    typical = float(np.nanmedian(chi2))
    return np.asarray(chi2 > HIGH_CHI2 * typical + _SIGMA * typical * np.sqrt(2.0 / np.maximum(kept, 1.0)))


def report_images(half: str, table: pd.DataFrame) -> None:
    """Warn of the images that stand out, by name: few matches, few kept, a bad fit."""
    sources, referenced, matched, kept = (
        table[name].to_numpy(np.float64) for name in ("sources", "referenced", "matched", "kept")
    )
    lost, kept_share = table.lost.to_numpy(), kept / np.maximum(matched, 1)
    _warn(half, table, lost, "lost their data: most of what was matched contradicts the fit", kept_share)
    few = _low(kept, matched, LOW_KEPT) & ~lost
    _warn(half, table, few, "keep a far smaller share of their matches than others", kept_share)
    alone = _low(referenced, sources, LOW_MATCHED)
    _warn(half, table, alone, "match far fewer reference stars than others", referenced / np.maximum(sources, 1))
    chi2 = table.chi2_per_dof.to_numpy(np.float64)
    _warn(half, table, _bad_fit(table), "fit far worse than others (chi2 per degree of freedom)", chi2)


def report_weak(half: str, table: pd.DataFrame) -> None:
    """Warn of the images that are published with a large error, by name."""
    unit = "arcsec" if half == "astrometry" else "mag"
    what = f"are held by few stars: their formal errors ({unit}) may be large or too small; marked as weak, use them with care"
    torn, published = table.torn.to_numpy(), table.weak.to_numpy() & ~table.lost.to_numpy()
    _warn(half, table, published & ~torn, what, table.formal_error.to_numpy())
    what = (
        "are of visits that no model follows: neighbouring stars are off together, as under clouds or after a jump, by far more "
        f"than they should; their errors ({unit}) may be larger than the formal ones; marked as weak, use them with care"
    )
    _warn(half, table, published & torn, what, table.formal_error.to_numpy())


def _warn(half: str, table: pd.DataFrame, which: Flags, what: str, value: F64) -> None:
    index = np.flatnonzero(which)
    if not index.size:
        return
    listed = ", ".join(f"visit {table.visit[i]} detector {table.detector[i]}: {value[i]:.2f}" for i in index[:_NAMED])
    more = f" and {index.size - _NAMED} more" if index.size > _NAMED else ""
    log.warning("%s: %d of %d images %s (%s%s)", half, index.size, len(table), what, listed, more)
