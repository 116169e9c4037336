"""The displacement field of each visit of a fit, and what stars that were held out say of it."""

import logging
from dataclasses import dataclass

import numpy as np

from calibration.joint.atmosphere.correlation import fit_kernel, two_point
from calibration.joint.atmosphere.process import predict, predict_grid
from calibration.joint.model.astrometry import AstrometryProblem
from calibration.joint.model.build_astrometry import AstrometryBuilder
from calibration.joint.solve.minimize import evaluate, star_blocks
from exposure.wcs.displacement import DisplacementGrid
from tasks.arrays import F64, I64

__all__ = ["fit_fields"]

log = logging.getLogger("alertprod.jointcal")
_ROUNDS = 2  # before the last: a star moves when its measurements in other visits do
_MOST_LEVERAGE = 0.9  # of a measurement whose star has little else
_CLOSE = 60.0  # arcsec
_LEAST_JUDGES = 20  # held-out measurements of a visit
_FAR = 6.0  # times the robust scatter: beyond it a measurement tells nothing of the field


@dataclass(frozen=True)
class _Displacements:
    """What measurements miss the places by that the other measurements of their stars, and reference stars, give.

    Parameters
    ----------
    visit
        (N,) index of the visit.
    points, values
        (N, 2) places in the visit's tangent plane and what they miss by, arcsec.
    variance
        (N,) of both places per axis, arcsec^2.
    """

    visit: I64
    points: F64
    values: F64
    variance: F64

    def of(self, visit: int) -> "_Displacements":
        """Return those of one visit."""
        k = np.flatnonzero(self.visit == visit)
        return _Displacements(self.visit[k], self.points[k], self.values[k], self.variance[k])


def fit_fields(
    builder: AstrometryBuilder, problem: AstrometryProblem, held: AstrometryProblem | None
) -> dict[str, float]:
    """Give the `builder` of a finished fit the field of each visit that has one, and take it off the measurements.

    A measurement tells the field by what it misses the place that its star has without it. A field that does not bring the
    stars that were held out closer is not used.

    Returns
    -------
    metrics
        ``atmosphere_visits``: how many have a field; ``atmosphere_rms_mas``: of the fields per axis, at the stars;
        ``atmosphere_two_point_before_mas2``, ``..._after_mas2``, ``..._error_mas2``: mean product of the displacements of
        held-out stars less than an arcmin apart, without and with the fields.
    """
    judged = held if held is not None else problem
    before = _measured(judged, builder)
    for _ in range(_ROUNDS):
        _displace(builder, problem)
    told = _measured(problem, builder)
    fields = {v: _field(told.of(v)) for v in range(len(builder.tangent))}
    builder.fields = {v: field for v, field in fields.items() if field is not None}
    if held is not None and builder.fields:
        _drop_useless(builder, held, before)
        builder.displace(held)
    builder.displace(problem)
    evaluate(problem)
    after = _measured(judged, builder, less=True)
    metrics = {"atmosphere_visits": float(len(builder.fields)), "atmosphere_rms_mas": _rms(problem)}
    for name, some in (("before", before), ("after", after)):
        value, error, pairs = two_point(some.points, some.values, some.variance, some.visit, _CLOSE)
        metrics[f"atmosphere_two_point_{name}_mas2"] = 1e6 * value
    metrics["atmosphere_two_point_error_mas2"] = 1e6 * error
    log.info("%d of %d visits have a displacement field; %d pairs", len(builder.fields), len(builder.tangent), pairs)
    return metrics


def _rms(problem: AstrometryProblem) -> float:
    """Return the rms per axis of what is taken off the kept measurements, mas."""
    if problem.displacement is None or not problem.kept.any():
        return 0.0
    return 1e3 * float(np.sqrt((problem.displacement[problem.kept] ** 2).mean()))


def _measured(problem: AstrometryProblem, builder: AstrometryBuilder, less: bool = False) -> _Displacements:
    """Return the displacements that the kept measurements of a problem tell; `less`: what its fields leave of them."""
    evaluation = evaluate(problem)
    rows = [problem.light(a, b).rows for a, b in star_blocks(problem, light=True)]
    residual = np.concatenate([r.residual for r in rows])
    weight = 0.5 * np.concatenate([r.weight[:, 0, 0] + r.weight[:, 1, 1] for r in rows])
    share = 1.0 - evaluation.leverage
    use = np.flatnonzero(problem.kept & (evaluation.leverage < _MOST_LEVERAGE) & (weight > 0))
    values = residual[use] / share[use, None]
    if problem.displacement is not None and not less:
        values = values + problem.displacement[use]
    variance = 1.0 / (weight[use] * share[use])
    pull = np.sqrt((values**2).sum(1) / variance)
    near = pull <= _FAR * np.median(pull) if pull.size else np.zeros(0, bool)
    use = use[near]
    visit = builder.visit_index[problem.image[use]]
    return _Displacements(visit, problem.places()[use], values[near], variance[near])


def _displace(builder: AstrometryBuilder, problem: AstrometryProblem) -> None:
    """Take the fields, as the measurements of a problem tell them now, off these very measurements."""
    told, places, visit = _measured(problem, builder), problem.places(), builder.visit_index[problem.image]
    out = np.zeros(places.shape)
    for v in range(len(builder.tangent)):
        some, of = told.of(v), visit == v
        kernel = fit_kernel(some.points, some.values, some.variance)
        if kernel is not None:
            out[of] = predict(some.points, some.values, some.variance, kernel, places[of])
    problem.displacement = out


def _field(told: _Displacements) -> DisplacementGrid | None:
    """Return the field of one visit; None where its displacements are no more than noise."""
    kernel = fit_kernel(told.points, told.values, told.variance)
    return None if kernel is None else predict_grid(told.points, told.values, told.variance, kernel)


def _drop_useless(builder: AstrometryBuilder, held: AstrometryProblem, before: _Displacements) -> None:
    """Drop the fields that do not bring held-out measurements closer to the places of their stars."""
    builder.displace(held)
    after = _measured(held, builder, less=True)
    for v in sorted(builder.fields):
        was, now = before.of(v), after.of(v)
        if min(was.visit.size, now.visit.size) < _LEAST_JUDGES:
            continue
        if _miss(now) >= _miss(was):
            log.info("the field of the visit at index %d does not help stars that were held out: not used", v)
            del builder.fields[v]


def _miss(some: _Displacements) -> float:
    """Return the median square of displacements in units of their noise."""
    return float(np.median((some.values**2).sum(1) / some.variance))
