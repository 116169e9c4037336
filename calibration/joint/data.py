"""What goes into a joint fit: images, measurements, stars, reference stars."""

from dataclasses import dataclass, field, replace

import numpy as np

from exposure.wcs.tangent import PixelToSky
from tasks.arrays import F64, I64, Flags

__all__ = ["ARCSEC", "Images", "Measurements", "Stars", "measurements_of", "tangent_frames"]

ARCSEC = np.pi / 648000.0  # rad


def tangent_frames(vectors: F64) -> tuple[F64, F64]:
    """Return the unit vectors to the east and to the north at directions (N, 3); right at the poles too."""
    x, y = vectors[..., 0], vectors[..., 1]
    flat = np.hypot(x, y)
    safe = np.where(flat > 1e-15, flat, 1.0)
    east = np.stack(
        [np.where(flat > 1e-15, -y / safe, 0.0), np.where(flat > 1e-15, x / safe, 1.0), np.zeros_like(x)], -1
    )
    return east, np.cross(vectors, east)


def measurements_of(offsets: I64, which: I64) -> tuple[I64, I64]:
    """Return the indices (N,) of the measurements of some stars (K,), and where each of these stars begins (K + 1,); star s has
    the measurements offsets[s]:offsets[s + 1].
    """
    count = np.diff(offsets)[which]
    first = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return np.repeat(offsets[which] - first[:-1], count) + np.arange(first[-1]), first


@dataclass
class Images:
    """One entry per (visit, detector), sorted by visit and detector.

    Parameters
    ----------
    visit, detector
        Ids, shape (I,).
    wcs
        Input WCS of each image.
    bbox
        (I, 4): x0, y0, width, height.
    calib_mean, calib_err
        Input calibration, nJy per count.
    mjd_tai, exposure_time, airmass
        Middle of the exposure, seconds, and airmass (NaN: unknown).
    boresight
        (I, 2) degrees.
    """

    visit: I64
    detector: I64
    wcs: list[PixelToSky]
    bbox: I64
    calib_mean: F64
    calib_err: F64
    mjd_tai: F64
    exposure_time: F64
    airmass: F64
    boresight: F64
    band: list[str] = field(default_factory=list)
    physical_filter: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.visit.size)

    def key(self, index: int) -> tuple[int, int]:
        """Return (visit, detector) of an image."""
        return int(self.visit[index]), int(self.detector[index])

    def label(self, index: int) -> str:
        """Return the name of an image for messages."""
        return f"visit {self.visit[index]}, detector {self.detector[index]}"

    def take(self, index: I64) -> "Images":
        """Return some of the images; `index` is (K,)."""
        return replace(
            self,
            visit=self.visit[index],
            detector=self.detector[index],
            wcs=[self.wcs[i] for i in index],
            bbox=self.bbox[index],
            calib_mean=self.calib_mean[index],
            calib_err=self.calib_err[index],
            mjd_tai=self.mjd_tai[index],
            exposure_time=self.exposure_time[index],
            airmass=self.airmass[index],
            boresight=self.boresight[index],
            band=[self.band[i] for i in index],
            physical_filter=[self.physical_filter[i] for i in index],
        )


@dataclass
class Measurements:
    """One entry per detection.

    Parameters
    ----------
    image
        Index into the images, shape (N,).
    x, y
        Frame pixels.
    vx, vy, vxy
        Covariance of the position, px^2, without a pedestal.
    flux, flux_err
        Instrument units.
    source_id
        As in the source table; it need not be unique.
    row
        Number of the measurement among all that were given, the same in both halves of a fit.
    """

    image: I64
    x: F64
    y: F64
    vx: F64
    vy: F64
    vxy: F64
    flux: F64
    flux_err: F64
    source_id: I64
    row: I64

    def __len__(self) -> int:
        return int(self.image.size)

    def take(self, index: I64 | Flags) -> "Measurements":
        """Return some of the measurements; `index` is (K,), numbers or flags."""
        return Measurements(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def sky(self, images: Images) -> tuple[F64, F64]:
        """Return (ra, dec) in degrees by the images' input WCS."""
        ra, dec = np.empty(len(self)), np.empty(len(self))
        order = np.argsort(self.image, kind="stable")
        edges = np.searchsorted(self.image[order], np.arange(len(images) + 1))
        for i, wcs in enumerate(images.wcs):  # one call per image: a WCS is one object
            part = order[edges[i] : edges[i + 1]]
            if part.size:
                ra[part], dec[part] = wcs.pixel_to_sky(self.x[part], self.y[part])
        return ra, dec


@dataclass
class Stars:
    """The stars of a fit; the measurements are sorted by star, those of star s at offsets[s]:offsets[s + 1].

    Parameters
    ----------
    ra, dec
        Mean position, degrees.
    offsets
        (M + 1,).
    reference
        Index of the reference star, -1 where there is none.
    """

    ra: F64
    dec: F64
    offsets: I64
    reference: I64

    def __len__(self) -> int:
        return int(self.ra.size)

    @property
    def of_measurement(self) -> I64:
        """Index (N,) of the star of each measurement."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def measurements_of(self, which: I64) -> tuple[I64, I64]:
        """Return the indices (N,) of the measurements of some stars (K,), and where each of these stars begins (K +
        1,).
        """
        return measurements_of(self.offsets, which)
