"""What is expected of the maps of the simple model, one of each image: see `calibration.joint.model.common_maps`."""

from collections.abc import Mapping

import numpy as np

from calibration.joint.data import Images
from calibration.joint.matching.stars import Associated
from calibration.joint.model.astrometry import Layout
from calibration.joint.model.basis import design, n_terms, square_nodes, term_degrees
from calibration.joint.model.common_maps import HeaderMaps, TiedStars, expected_maps
from calibration.joint.model.frames import gnomonic
from calibration.joint.model.linearise import Frames
from tasks.arrays import F64, I64, Flags
from tasks.sphere import unit_vectors

__all__ = ["expected_images"]

_LEAST_VARIANCE = 1e-10  # arcsec^2


def expected_images(
    images: Images, layout: Layout, frames: Frames, associated: Associated, pedestal: float, header: Flags
) -> Mapping[int, tuple[F64, F64]]:
    """Return terms (T, 2) and inverse variances (T,) that are expected of the maps of images, by index; none of the images of
    visits that are too small to say.

    Parameters
    ----------
    pedestal
        px^2, added to the variances of positions.
    header
        Which terms (T,) are taken from the input WCS.
    """
    m, reference = associated.measurements, associated.stars.reference[associated.stars.of_measurement]
    tied = np.flatnonzero(reference >= 0)
    out: dict[int, tuple[F64, F64]] = {}
    for visit in np.unique(images.visit):
        of = np.flatnonzero(images.visit == visit)
        headers = HeaderMaps(
            layout.outer_order, np.array([_header(images, layout, frames, int(i), header) for i in of])
        )
        part = tied[np.isin(m.image[tied], of)]
        stars = _tied(headers, layout, frames, associated, (part, reference[part], of), pedestal)
        found = expected_maps(headers, stars) if part.size else None
        if found is not None:
            out |= {int(i): (found.terms[k], found.weight[k]) for k, i in enumerate(of)}
    return out


def _header(images: Images, layout: Layout, frames: Frames, image: int, header: Flags) -> F64:
    """Return the map of an image by its input WCS, (T, 2): its terms `header`, zero in the others."""
    u, v = square_nodes()
    centre, half = layout.centre[image], layout.half[image]
    vectors = unit_vectors(*images.wcs[image].pixel_to_sky(centre[0] + u * half[0], centre[1] + v * half[1]))
    out = np.zeros((n_terms(layout.outer_order), 2))
    basis = design(layout.outer_order, u, v)[:, header]
    out[header] = np.linalg.lstsq(basis, gnomonic(vectors, frames, image), rcond=None)[0]
    return out


def _tied(
    headers: HeaderMaps,
    layout: Layout,
    frames: Frames,
    associated: Associated,
    which: tuple[I64, I64, I64],
    pedestal: float,
) -> TiedStars:
    """Return the measurements of a visit that have a reference star; `which` are their indices (N,), those of their reference
    stars (N,), and the images of the visit (I,).
    """
    m, references = associated.measurements, associated.references
    part, reference, of = which
    image = m.image[part]
    scaled = (np.stack([m.x[part], m.y[part]], 1) - layout.centre[image]) / layout.half[image]
    place = gnomonic(references.vector[reference], frames, int(of[0]))  # images of a visit have one tangent plane
    number = np.searchsorted(of, image)
    first = term_degrees(layout.outer_order).sum(1) == 1
    size = np.sqrt(np.abs(np.linalg.det(headers.terms[:, first])) / layout.half[of].prod(1))  # arcsec per px
    variance = size[number] ** 2 * (0.5 * (m.vx[part] + m.vy[part]) + pedestal)
    variance += 0.5 * (references.error[reference] ** 2).sum(1)
    return TiedStars(number, scaled, place, np.maximum(variance, _LEAST_VARIANCE))
