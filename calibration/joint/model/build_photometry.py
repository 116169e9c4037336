"""Start values of a photometric fit from input calibrations and camera, and its result as calibrations."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from calibration.errors import JointCalibrationError, ModelInvalid
from calibration.joint.config import JointcalConfig
from calibration.joint.data import Images
from calibration.joint.matching.stars import Associated
from calibration.joint.model.basis import n_terms, term_degrees
from calibration.joint.model.frames import held_chips
from calibration.joint.model.photometry import (
    POGSON,
    MeasuredFluxes,
    PhotometryLayout,
    PhotometryProblem,
    StarPhotometry,
    field_at,
)
from calibration.joint.model.rows import ModelParameters
from exposure import ChebyshevField, PhotoCalib
from exposure.camera import Camera
from exposure.photocalib import AB_ZEROPOINT
from tasks.arrays import F64, I64

__all__ = ["PhotometryBuilder", "build_calibrations"]

log = logging.getLogger("alertprod.jointcal")
_SOURCES_PER_TERM = 6  # below, a field follows the noise of its sources
_FAR = np.log(1.3)  # a calibration within this factor is a good start
_LEAST_RATIOS = 3  # ratios that tell of an image
_ROUNDS = 4
_NAMED = 10
_LEVER = 1024.0  # px, by which the turn and scale of a chip are told


@dataclass
class PhotometryBuilder:
    """Everything about the images that fits of different stars share.

    Parameters
    ----------
    box
        Lowest x and y, highest x and y of the focal plane, mm.
    """

    images: Images
    layout: PhotometryLayout
    camera: Camera
    box: tuple[float, float, float, float]
    parameters: ModelParameters

    @classmethod
    def start(
        cls, images: Images, associated: Associated, camera: Camera, config: JointcalConfig
    ) -> "PhotometryBuilder":
        """Start from the input calibrations, or from the stars' fluxes where these are far off; fields start flat."""
        images = replace(images, calib_mean=_start_calibrations(images, associated))
        visits, visit_index = np.unique(images.visit, return_inverse=True)
        detectors, chip = np.unique(images.detector, return_inverse=True)
        magnitude = config.photometryModel.endswith("Magnitude")
        constrained = config.photometryModel.startswith("constrained")
        order = config.photometryVisitOrder if constrained else -1
        layout = PhotometryLayout(visit_index, chip if constrained else np.arange(len(images)), order, magnitude)
        parameters, fitted, prior_weight = np.zeros(layout.size), np.ones(layout.size, bool), np.zeros(layout.size)
        scale = parameters[layout.scale_start :]
        if not constrained:
            scale[:] = images.calib_mean
            names = [f"scale of {images.label(i)}" for i in range(len(images))]
        else:
            scale[:] = [np.exp(np.mean(np.log(images.calib_mean[chip == c]))) for c in range(detectors.size)]
            names = [f"field of visit {v}, term T{i}(X)T{j}(Y)" for v in visits for i, j in term_degrees(order)] + [
                f"scale of detector {d}" for d in detectors
            ]
            held = held_chips(visit_index, chip, detectors, camera, _middle(camera))
            fitted[layout.scale_start + np.array(held)] = False
            count = n_terms(order)
            degree = term_degrees(order).sum(1)
            measured = np.bincount(visit_index[associated.measurements.image], minlength=visits.size)
            used = degree <= _orders(measured, order, visits)[:, None]
            fitted[: used.size] = used.ravel()
            ratio = np.log(images.calib_mean / scale[chip])
            for v in range(visits.size):
                level = float(np.exp(np.mean(ratio[visit_index == v])))
                parameters[v * count] = -2.5 * np.log10(level) if magnitude else level
                # a field of fluxes is as many times larger as its level: so is what is expected of it
                unit = 1.0 if magnitude else level / POGSON
                prior_weight[v * count : (v + 1) * count] = np.where(
                    degree > 0, 1.0 / (config.photometryFieldPrior * unit) ** 2, 0.0
                )
        if magnitude:
            scale[:] = AB_ZEROPOINT - 2.5 * np.log10(scale)
        model = ModelParameters(parameters, fitted, names, prior_weight, parameters.copy())
        return cls(images, layout, camera, camera.focal_box(), model)

    def focal(self, image: I64, x: F64, y: F64) -> F64:
        """Return scaled focal-plane positions (N, 2), each in [-1, 1] over the camera's box."""
        first, across, down = self._to_focal
        return np.asarray(first[image] + across[image] * x[:, None] + down[image] * y[:, None])

    @cached_property
    def _to_focal(self) -> tuple[F64, F64, F64]:
        """The scaled focal-plane position (I, 2) of pixel (0, 0) of each image, and what a pixel in x and in y adds to it."""
        low, high = np.array(self.box).reshape(2, 2)
        corners = np.array([[0.0, _LEVER, 0.0], [0.0, 0.0, _LEVER]])
        of, index = np.unique(self.images.detector, return_inverse=True)
        places = np.array([self.camera[int(d)].to_focal(*corners) for d in of]).transpose(2, 0, 1)[:, index]
        first, x, y = (2 * places - low - high) / (high - low)
        return first, (x - first) / _LEVER, (y - first) / _LEVER

    def problem(
        self, associated: Associated, which: I64, config: JointcalConfig, use_references: bool = True
    ) -> PhotometryProblem:
        """Return the problem of some stars (indices, (M,)); model parameters are shared between problems made here.

        Raises
        ------
        JointCalibrationError
            A flux is negative, zero or not finite, or its error not positive.
        """
        index, offsets = associated.stars.measurements_of(which)
        m = associated.measurements.take(index)
        bad = ~((m.flux > 0) & np.isfinite(m.flux) & (m.flux_err > 0) & np.isfinite(m.flux_err))
        if bad.any():
            visit, detector = self.images.key(int(m.image[np.flatnonzero(bad)[0]]))
            raise JointCalibrationError(
                f"{int(bad.sum())} selected sources have a flux or flux error that is not positive and finite; select "
                "with sourceSelector.signalToNoiseMinimum > 0",
                visit=visit,
                detector=detector,
            )
        pedestal, model = config.photometryErrorPedestal, config.photometryModel
        error = m.flux_err
        if pedestal > 0:  # in simpleMagnitude it is a magnitude, else a fraction of the flux
            floor = pedestal / POGSON if model == "simpleMagnitude" else pedestal
            error = np.hypot(error, floor * m.flux)
        focal = self.focal(m.image, m.x, m.y) if self.layout.order >= 0 else np.zeros((len(m), 2))
        stars = self._stars(associated, which, m.flux, m.image, offsets, use_references)
        measured = MeasuredFluxes(offsets, m.image, focal, m.flux, error)
        predicted = bool(config.predictedErrors) and self.layout.magnitude
        return PhotometryProblem(self.layout, stars, measured, self.parameters, predicted)

    def _stars(
        self, a: Associated, which: I64, flux: F64, image: I64, offsets: I64, use_references: bool
    ) -> StarPhotometry:
        n = which.size
        calibrated = flux * self.images.calib_mean[image]
        mean = np.add.reduceat(calibrated, offsets[:-1]) / np.diff(offsets) if n else np.zeros(0)
        reference = a.stars.reference[which]
        has = (reference >= 0) & use_references
        ref = a.references.take(np.maximum(reference, 0))
        value, error = ref.flux, ref.flux_err
        if self.layout.magnitude:
            with np.errstate(invalid="ignore", divide="ignore"):
                error = POGSON * error / value
                value = AB_ZEROPOINT - 2.5 * np.log10(value)
            mean = AB_ZEROPOINT - 2.5 * np.log10(mean)
        has = has & np.isfinite(value) & (error > 0)
        prior = np.where(has, 1.0 / np.where(has, error, 1.0) ** 2, 0.0)[:, None, None]
        return StarPhotometry(mean[:, None], prior, np.where(has, value, 0.0)[:, None])

    def check(self) -> None:
        """Refuse a calibration that is not positive somewhere on an image (3 x 3 positions).

        Raises
        ------
        ModelInvalid
            Names the image.
        """
        scale = self.scales(np.linspace(-1, 1, 3)).reshape(len(self.images), -1)
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~(np.isfinite(scale) & (scale > 0)).all(1))
        if bad.size:
            visit, detector = self.images.key(int(bad[0]))
            raise ModelInvalid(
                f"Model is not valid: the calibration is negative or not finite on this image and {bad.size - 1} more; "
                "lower photometryVisitOrder or add stars",
                visit=visit,
                detector=detector,
            )

    def scales(self, nodes: F64) -> F64:
        """Return nJy per count of every image (I, n, n) [y, x]; nodes in [-1, 1] run from edge pixel to edge pixel."""
        box = self.images.bbox.astype(np.float64)
        n, m = len(box), nodes.size
        x = np.broadcast_to((box[:, :1] + (box[:, 2:3] - 1) / 2 * (1 + nodes))[:, None, :], (n, m, m))
        y = np.broadcast_to((box[:, 1:2] + (box[:, 3:4] - 1) / 2 * (1 + nodes))[:, :, None], (n, m, m))
        image = np.repeat(np.arange(n), m * m)
        lay = self.layout
        k = self.parameters.values[lay.scale_start + lay.scale[image]]
        field = np.full(image.size, 0.0 if lay.magnitude else 1.0)
        if lay.order >= 0:
            focal = self.focal(image, x.ravel(), y.ravel())
            count = n_terms(lay.order)
            of = lay.field[image]
            for v in np.unique(of):
                part = of == v
                out = np.empty(int(part.sum()))
                u, w = focal[part].T.copy()
                field_at(lay.order, self.parameters.values[v * count : (v + 1) * count], u, w, out)
                field[part] = out
        scale = 10.0 ** (-0.4 * (k + field - AB_ZEROPOINT)) if lay.magnitude else k * field
        return np.asarray(scale.reshape(n, m, m), np.float64)


def _orders(measured: I64, order: int, visits: I64) -> I64:
    """Return the order (V,) of the field of each visit (V,), lower where its sources (V,) are few."""
    terms = np.array([n_terms(k) for k in range(order + 1)])
    fitting: I64 = (_SOURCES_PER_TERM * terms <= measured[:, None]).sum(1)
    out = np.maximum(fitting - 1, 0)
    for v in np.flatnonzero(out < order):
        log.warning(
            "field of visit %d: %d sources: its order is lowered from %d to %d", visits[v], measured[v], order, out[v]
        )
    return out


def _middle(camera: Camera) -> tuple[float, float]:
    x_low, y_low, x_high, y_high = camera.focal_box()
    return (x_low + x_high) / 2, (y_low + y_high) / 2


def build_calibrations(
    builder: PhotometryBuilder, errors: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], PhotoCalib]:
    """Return the fitted calibration of every image, whose mean has an error (mag); its variation is a Chebyshev field over the
    image.

    The mean is that over the image's area; the field reproduces the model to rounding in flux models (rotated chips
    keep polynomials polynomial) and to the truncation of 10^(-0.4 T) in magnitude models (order 2 higher).
    """
    order = builder.layout.order
    size = 1 if order < 0 else order + 1 + (3 if builder.layout.magnitude else 0)
    nodes = np.cos(np.pi * (np.arange(size) + 0.5) / size)
    inverse = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, size - 1))
    out = {}
    for i, values in enumerate(builder.scales(nodes)):
        key = builder.images.key(i)
        relative = errors[key] / POGSON
        if order < 0:
            mean = float(values[0, 0])
            out[key] = PhotoCalib(mean, mean * relative, None, "joint")
            continue
        coefficients = inverse @ values @ inverse.T
        mean = _box_mean(coefficients)
        x0, y0, w, h = (int(v) for v in builder.images.bbox[i])
        out[key] = PhotoCalib(mean, mean * relative, ChebyshevField(coefficients / mean, (x0, y0, w, h)), "joint")
    return out


def _box_mean(coefficients: F64) -> float:
    """Mean of a Chebyshev series over the square: the integral of T_n over [-1, 1] is 2 / (1 - n^2) for even n."""
    n = np.arange(max(coefficients.shape))
    with np.errstate(divide="ignore"):
        weight = np.where(n % 2 == 0, 1.0 / (1.0 - n.astype(np.float64) ** 2), 0.0)
    return float(weight[: coefficients.shape[0]] @ coefficients @ weight[: coefficients.shape[1]])


def _start_calibrations(images: Images, associated: Associated) -> F64:
    """Return nJy per count (I,) of each image to start from.

    The median ratio of an image's calibrated fluxes to those of the reference stars, else to those of the same stars on
    images that are tied to references, else that of its visit, replaces an input that is off by more than a factor of 1.3.
    Magnitude models then converge from any input.
    """
    measurements, stars = associated.measurements, associated.stars
    image, star = measurements.image, stars.of_measurement
    with np.errstate(invalid="ignore", divide="ignore"):
        calibrated = np.log(measurements.flux * images.calib_mean[image])
        log_flux = np.log(associated.references.flux[np.maximum(stars.reference, 0)])
    truth = np.where(stars.reference >= 0, log_flux, np.nan)
    offset = np.full(len(images), np.nan)
    for _ in range(_ROUNDS):
        fresh = np.isnan(offset)
        ratio = calibrated - truth[star]
        offset[fresh] = _medians(ratio, image, len(images))[fresh]
        if not np.isnan(offset).any():
            break
        truth = np.where(np.isfinite(truth), truth, _medians(calibrated - offset[image], star, len(stars), 1))
    for visit in np.unique(images.visit):
        of = images.visit == visit
        if np.isfinite(offset[of]).any():
            offset[of & np.isnan(offset)] = np.nanmedian(offset[of])
    far = np.abs(np.nan_to_num(offset)) > _FAR
    if far.any():
        listed = ", ".join(
            f"{images.label(int(i))}: {1.0857 * offset[i]:+.2f} mag" for i in np.flatnonzero(far)[:_NAMED]
        )
        log.warning(
            "the input calibrations of %d of %d images are far from their stars' fluxes; not started from (%s)",
            int(far.sum()),
            len(images),
            listed,
        )
    return np.asarray(np.where(far, images.calib_mean * np.exp(-np.nan_to_num(offset)), images.calib_mean))


def _medians(values: F64, group: I64, n: int, least: int = _LEAST_RATIOS) -> F64:
    """Return the median (n,) of the finite values (N,) of each group (N,), NaN where fewer than `least` are."""
    good = np.isfinite(values)
    values, group = values[good], group[good]
    order = np.lexsort((values, group))
    count = np.bincount(group, minlength=n)
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    out = np.full(n, np.nan)
    some = count >= least
    out[some] = values[order][(first + count // 2)[some]]
    return out
