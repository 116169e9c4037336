"""From two prepared images to a difference: kernel, subtraction, masks, PSF, and how well the stars subtract."""

from dataclasses import dataclass, replace

import numpy as np

from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import (
    DEGREES,
    EQUAL_WIDTHS,
    MIN_SIZE,
    WING_DEGREES,
    AlardLuptonBasis,
    kernel_sizes,
    make_basis,
)
from diffim.matching.kernel_fit import FitOptions, KernelFit, fit_kernel
from diffim.matching.kernel_stamps import StarPositions
from diffim.matching.kernel_stars import kernel_stars
from diffim.matching.psf_kernel import KernelGrid, psf_kernels
from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import MaskedImage
from diffim.pixels.stamp_convolution import stamps_through
from diffim.preparation import flux_unit_ratio
from diffim.subtraction.alard_lupton import Subtracted, Subtraction, excess_power
from diffim.subtraction.difference_exposure import (
    Reach,
    StampsAt,
    combined_mask,
    difference_exposure,
    difference_psf,
    pixel_reach,
    reach_of,
)
from diffim.subtraction.noise_power import noise_autocorrelation, sky_correlation
from diffim.subtraction.photon_noise import Light, LightPaths, variance_per_count, with_photon_noise
from diffim.subtraction.zogy import ProperSubtraction, check_centred
from exposure import Exposure
from exposure.errors import PsfUndefined
from exposure.photometry import SPOILT, forced_psf_photometry
from exposure.psf import FWHM_PER_SIGMA
from exposure.psf_width import psf_fwhm
from exposure.stamps import gather
from exposure.stars import Stars
from tasks.arrays import F32, F64, nearest_pixels
from tasks.reprs import short_repr

__all__ = ["MatchOptions", "Matched", "match_and_subtract", "match_and_subtract_proper"]

ENOUGH_FOR_WINGS = (
    40  # stars; where fewer have clean stamps for the far wings, and many more for the core, it is left at that
)
MANY_MORE = 1.5
WHITE_POWER = 0.15  # deviation from white noise that is within the error of its measurement
ALIKE = 0.1  # widths this alike let the noise decide what is convolved, where it cannot be taken off the fit
REACH = 0.95  # of the weight of a filter: what lies beyond has the light of the other image, of which little is amiss
WHITENED = 0.85  # of the weight of a whitening: so far from a filled pixel a source lacks light that is more than noise
WHITE = 0.1  # correlation of neighbouring sky pixels; faint sources make up to 0.06, resampling 0.2 and more


@dataclass(frozen=True)
class Matched:
    """The difference exposure, the matched template on the same pixels, and the kernel with its fit.

    ``unit`` is the counts of the difference per count of the template, ``max_phi`` the largest factor that the whitening
    multiplies a frequency by.
    """

    difference: Exposure
    matched: F32 | None
    fit: KernelFit | None
    convolved: str
    unit: float
    max_phi: float = 1.0

    __repr__ = short_repr


@dataclass(frozen=True)
class MatchOptions:
    """How two images are matched and subtracted.

    Parameters
    ----------
    mode
        ``convolveTemplate``, ``convolveScience`` or ``auto`` (convolve the sharper image; the template where they are alike).
    kernel_size
        Side of the kernel, px, odd; 0 takes it from the seeing.
    kernel_order, background_order
        Highest orders of the polynomials of kernel and background.
    subtract_background
        Whether the fitted background is taken off.
    decorrelate
        Whether the noise of the difference is whitened.
    min_stars, max_stars
        Fewer are an error; more are not fitted (-1 takes all).
    want_matched
        Whether the matched template is to be returned.
    """

    mode: str = "auto"
    kernel_size: int = 0
    kernel_order: int = 1
    background_order: int = 2
    subtract_background: bool = True
    decorrelate: bool = True
    min_stars: int = 3
    max_stars: int = 400
    want_matched: bool = True


def match_and_subtract(
    science: Exposure, template: Exposure, sources: Stars, options: MatchOptions, earlier_fit: KernelFit | None = None
) -> Matched:
    """Match the two images and subtract.

    Parameters
    ----------
    science, template
        Prepared exposures; the template's box contains that of the image.
    earlier_fit
        A fit made before on the same images: it is applied, none is made.

    Raises
    ------
    InsufficientKernelSources
        Too few clean stars.
    """
    direction = _direction(science, template, options.mode)
    stars, basis = _stars_and_basis(science, template, sources, direction, options)
    if earlier_fit is None and len(stars) < options.min_stars:
        raise InsufficientKernelSources(f"{len(stars)} clean kernel stars, need {options.min_stars}", **science.where)
    ratio = _flux_ratio(stars, science, template)
    white = [abs(sky_correlation(p)) < WHITE for p in (direction.target, direction.convolved)]
    correlation = None if white[1] else noise_autocorrelation(direction.convolved)
    positions = StarPositions(stars.x, stars.y, _motions(stars, direction))
    base = None if earlier_fit else _psf_kernels(science, template, direction, basis)
    fit_options = FitOptions(
        options.kernel_order,
        options.background_order,
        options.min_stars,
        flux_ratio=ratio if direction.of_template else 1 / ratio,
        white_noise=white[1],
        base=base,
        correlation=correlation,
    )
    fit = earlier_fit or fit_kernel(direction.convolved, direction.target, positions, basis, science.bbox, fit_options)
    if fit.transparency is not None:
        direction = replace(direction, convolved=fit.transparency.dimmed(direction.convolved))
    subtraction = _subtraction(science, template, direction, fit.kernel, ratio, all(white), options)
    if subtraction.excess is not None:
        own = None if white[0] else noise_autocorrelation(direction.target)
        subtraction = replace(subtraction, correlations=(own, correlation))
    subtracted = subtraction.run(want_matched=direction.of_template and options.want_matched)
    total = fit.kernel.kernel_sum
    matched = None
    if options.want_matched:
        of_template = direction.of_template
        matched = subtracted.matched if of_template else template.cutout(*science.bbox).image / np.float32(total)
    if fit.transparency is not None and not direction.of_template:  # back to the transparency of the image
        clear = np.float32(1) / fit.transparency.plane(science.bbox)
        subtracted = replace(
            subtracted, difference=subtracted.difference * clear, variance=subtracted.variance * clear**2
        )
        matched = None if matched is None else matched * clear
    unit = total if direction.of_template else 1 / total
    difference = _assemble(science, template, direction, fit, subtracted, subtraction)
    noise = [variance_per_count(e, stars) for e in (science, template)]
    known = subtraction.correlations if direction.of_template else subtraction.correlations[::-1]
    paths = LightPaths(direction.of_template, fit.kernel, subtraction.whitening_at, known)
    difference.psf = with_photon_noise(
        difference,
        *paths.lights((science.require_psf(), template.require_psf()), noise),
        getattr(science.psf, "flux_error", 0.0),
    )
    return Matched(difference, matched, fit, direction.name, unit, subtraction.largest_gain)


@dataclass(frozen=True)
class _Direction:
    """Which image is convolved to match which."""

    name: str
    convolved: MaskedImage
    target: MaskedImage
    sharp: float
    broad: float

    @property
    def of_template(self) -> bool:
        return self.name == "convolveTemplate"


def _direction(science: Exposure, template: Exposure, mode: str) -> _Direction:
    fwhm_s, fwhm_t = (psf_fwhm(e.require_psf(), e.bbox) for e in (science, template))
    new, old = MaskedImage.of(science, *SPOILT), MaskedImage.of(template, *SPOILT)
    if mode == "convolveTemplate" or (mode == "auto" and fwhm_t <= fwhm_s * (1 + EQUAL_WIDTHS)):
        return _Direction("convolveTemplate", old, new, fwhm_t, fwhm_s)
    if mode == "auto" and fwhm_t <= fwhm_s * (1 + ALIKE) and abs(sky_correlation(new)) >= WHITE and _quieter(old, new):
        # the noise of what is convolved is in the fit of its kernel: of two images alike the quieter one makes the better
        return _Direction("convolveTemplate", old, new, fwhm_s, fwhm_s)
    return _Direction("convolveScience", new, old, fwhm_s, fwhm_t)


def _quieter(first: MaskedImage, second: MaskedImage) -> bool:
    """Whether the first image has less noise than the second, each in units of its own stars: variances of the sky."""
    one, other = (float(np.nanmedian(p.variance[::16, ::16])) for p in (first, second))
    return one < other


def _stars_and_basis(
    science: Exposure, template: Exposure, sources: Stars, direction: _Direction, options: MatchOptions
) -> tuple[Stars, AlardLuptonBasis]:
    """Choose a kernel with wings where enough stars have room for it, else a plain one."""
    wide, core = kernel_sizes(max(_longest_fwhm(e, direction) for e in (science, template)))
    size, degrees = options.kernel_size or wide, DEGREES if options.kernel_size else WING_DEGREES
    stars = kernel_stars(sources, science, template, size, maximum=options.max_stars)
    if not options.kernel_size and len(stars) < ENOUGH_FOR_WINGS:
        more = kernel_stars(sources, science, template, core, maximum=options.max_stars)
        if len(more) > MANY_MORE * len(stars):
            stars, size, degrees = more, core, DEGREES
    return stars, make_basis(direction.sharp, direction.broad, size, degrees)


def _longest_fwhm(exposure: Exposure, direction: _Direction) -> float:
    """Return the FWHM (px) of an image's PSF along its major axis; that of the broader image where it is not defined."""
    psf = exposure.require_psf()
    try:
        xx, yy, xy = psf.moments_at(*psf.average_position())[0]
    except PsfUndefined:
        return max(direction.sharp, direction.broad)
    longest = FWHM_PER_SIGMA * float(np.sqrt(0.5 * (xx + yy) + np.hypot(0.5 * (xx - yy), xy)))
    return longest if np.isfinite(longest) else max(direction.sharp, direction.broad)


def _psf_kernels(
    science: Exposure, template: Exposure, direction: _Direction, basis: AlardLuptonBasis
) -> KernelGrid | None:
    """Return the kernels that the PSF models tell; a broad image cannot be sharpened as they would have it."""
    if basis.mode == "deconvolution":
        return None
    convolved, target = (template, science) if direction.of_template else (science, template)
    return psf_kernels(convolved.require_psf(), target.require_psf(), science.bbox, basis.size)


def _subtraction(
    science: Exposure,
    template: Exposure,
    direction: _Direction,
    kernel: SpatialKernel,
    ratio: float,
    white: bool,
    options: MatchOptions,
) -> Subtraction:
    """Return the subtraction with the fitted kernel; what does not count in the image is filled from the template."""
    unconvolved, convolved = direction.target, direction.convolved
    if options.subtract_background:
        unconvolved = unconvolved.without(
            *kernel.background_factors((*unconvolved.origin, *unconvolved.image.shape[::-1]))
        )
    bare = MaskedImage.of(template, *SPOILT)
    if direction.of_template:
        convolved = convolved.filled(unconvolved, 1 / ratio)
        unconvolved, scale = unconvolved.filled(bare, ratio), 1.0
    else:
        convolved, scale = convolved.filled(bare, 1 / max(kernel.kernel_sum, 1e-30)), -1 / kernel.kernel_sum
    excess: F64 | None = None
    if options.decorrelate and not white:
        excess = excess_power(unconvolved, convolved, kernel, science.bbox)
        if np.abs(excess - 1).max() < WHITE_POWER:  # it was crowding that looked like correlation
            excess = None
    return Subtraction(unconvolved, convolved, kernel, science.bbox, options.decorrelate, excess, scale)


def _motions(stars: Stars, direction: _Direction) -> F64 | None:
    """Return how far (N, 2) px each star lies elsewhere in the target than in the convolved image; None: no star moved."""
    return -stars.motion if direction.of_template and stars.motion is not None else stars.motion


def _flux_ratio(stars: Stars, science: Exposure, template: Exposure, side: int = 15) -> float:
    """Median ratio of star light, science over template, in boxes: enough to scale the template's variance."""
    ix, iy = (nearest_pixels(a) for a in (stars.x, stars.y))
    s, t = (
        np.nan_to_num(gather(e.image, ix - e.origin[0], iy - e.origin[1], side, 0.0)).sum((1, 2))
        for e in (science, template)
    )
    good = (s > 0) & (t > 0)
    return float(np.median(s[good] / t[good])) if good.any() else 1.0


def _assemble(
    science: Exposure,
    template: Exposure,
    direction: _Direction,
    fit: KernelFit,
    subtracted: Subtracted,
    subtraction: Subtraction,
) -> Exposure:
    """Return the difference with its mask, PSF and calibrations."""
    psf = science.require_psf()
    x0, y0, width, height = science.bbox
    x, y = np.array([x0 + width / 2]), np.array([y0 + height / 2])
    kernel, whitening = fit.kernel.kernels_at(x, y), subtraction.whitening_at(x, y)
    plain = Reach(reach_of(whitening[0], REACH), reach_of(whitening[0], WHITENED))
    wide = reach_of(stamps_through(kernel, whitening)[0], REACH)
    matched = Reach(wide, pixel_reach(kernel[0]), reach_of(kernel[0]))
    of_template, total = direction.of_template, np.float32(fit.kernel.kernel_sum)
    mask = combined_mask(science, template, *((plain, matched) if of_template else (matched, plain)))
    matching: list[StampsAt] = [] if of_template else [lambda x, y: fit.kernel.kernels_at(x, y) / total]
    psf = difference_psf(psf, science.bbox, *matching, subtraction.whitening_at)
    return difference_exposure(science, subtracted, mask, psf)


def match_and_subtract_proper(science: Exposure, template: Exposure, sources: Stars) -> Matched:
    """Subtract with the PSF models of the two images (`diffim.subtraction.zogy`); no kernel is fitted.

    Raises
    ------
    DifferencingError
        The two PSF models are centred differently, or no star gives the flux ratio.
    """
    psfs = science.require_psf(), template.require_psf()
    check_centred(*psfs, science.bbox)
    stars = kernel_stars(sources, science, template, MIN_SIZE)
    ratio = _psf_flux_ratio(stars, science, template)
    new, old = MaskedImage.of(science, *SPOILT), MaskedImage.of(template, *SPOILT)
    subtraction = ProperSubtraction(new.filled(old, 1 / ratio), old.filled(new, ratio), *psfs, ratio, science.bbox)
    white = [abs(sky_correlation(planes)) < WHITE for planes in (new, old)]
    if not all(white):
        known = tuple(None if w else noise_autocorrelation(p) for w, p in zip(white, (new, old), strict=True))
        subtraction = replace(subtraction, correlations=(known[0], known[1]))
        subtraction = replace(subtraction, excess=subtraction.measured_excess())
    subtracted = subtraction.run()
    x, y = np.array([science.bbox[0] + science.width / 2]), np.array([science.bbox[1] + science.height / 2])
    far = [Reach(reach_of(k[0]), pixel_reach(k[0]), reach_of(k[0])) for k in subtraction.filters_at(x, y)]
    mask = combined_mask(science, template, *far)
    psf = difference_psf(psfs[0], science.bbox, subtraction.whitening_at)
    difference = difference_exposure(science, subtracted, mask, psf)
    noise = [variance_per_count(e, stars) for e in (science, template)]
    difference.psf = with_photon_noise(
        difference,
        Light(psfs[0], subtraction.whitening_at, 1.0, noise[0], subtraction.correlations[0]),
        Light(psfs[1], lambda x, y: subtraction.filters_at(x, y)[1], 1 / ratio, noise[1], subtraction.correlations[1]),
        getattr(science.psf, "flux_error", 0.0),
    )
    return Matched(difference, subtracted.matched, None, "both", 1 / ratio)


def _psf_flux_ratio(stars: Stars, science: Exposure, template: Exposure) -> float:
    """Median ratio of PSF fluxes, template over science; of the calibrations where there are no stars."""
    flux, error = [], []
    for e in (science, template):
        table = forced_psf_photometry(
            e.image, e.variance, e.require_psf(), stars.x, stars.y, origin=e.origin, bad=~e.good("SAT", "CR")
        )
        flux.append(table.instFlux.to_numpy(np.float64))
        error.append(table.instFluxErr.to_numpy(np.float64))
    measured = np.isfinite(flux[0] + flux[1]) & (flux[0] > 20 * error[0]) & (flux[1] > 20 * error[1])
    if measured.any():
        return float(np.median(flux[1][measured] / flux[0][measured]))
    if science.photo_calib is None or template.photo_calib is None:
        raise InsufficientKernelSources("no star and no calibration tells the flux ratio", **science.where)
    return 1 / flux_unit_ratio(science, template)
