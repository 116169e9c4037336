"""Errors of the exposure room."""

from tasks.errors import AlgorithmError, CallerError, OfTheImage

__all__ = [
    "BadPixels",
    "BandUnknown",
    "CardInvalid",
    "ExposureError",
    "FitsUnreadable",
    "GainUnknown",
    "ImageAmbiguous",
    "InstrumentError",
    "PsfUndefined",
    "SkyClipped",
    "UnitsExtreme",
    "WcsMissing",
    "WcsUnsupported",
]


class ExposureError(CallerError):
    """The image or its header cannot be used."""

    code = "exposure"


class FitsUnreadable(ExposureError, OfTheImage):
    """The file is no FITS, is cut short, or is larger than allowed."""

    code = "fits_unreadable"


class ImageAmbiguous(FitsUnreadable):
    """The file holds several images and nothing says which one is meant."""

    code = "which_image"


class GainUnknown(ExposureError, OfTheImage):
    """Neither the instrument file nor the image tells how many electrons a count is."""

    code = "gain_unknown"


class SkyClipped(ExposureError, OfTheImage):
    """The sky was cut off at a value, so that nothing tells how large its noise is."""

    code = "sky_clipped"


class UnitsExtreme(ExposureError, OfTheImage):
    """Pixel values are so small or so large that their squares leave the numbers that pixels are kept in."""

    code = "pixel_units"


class WcsMissing(ExposureError, OfTheImage):
    """The header has no celestial WCS, or one that cannot be inverted."""

    code = "wcs_missing"


class BadPixels(ExposureError, OfTheImage):
    """No usable pixel is left."""

    code = "no_good_pixels"


class BandUnknown(ExposureError, OfTheImage):
    """The filter maps to none of the bands of the database."""

    code = "band_unknown"


class InstrumentError(ExposureError):
    """The instrument file is wrong, missing, or asks for a header card that is not there."""

    code = "instrument"


class CardInvalid(InstrumentError, OfTheImage):
    """A header card that is needed cannot be read, or its value cannot be true."""

    code = "bad_card"


class WcsUnsupported(WcsMissing):
    """The header has a WCS of a kind that cannot be brought to ICRS, or only half of one."""

    code = "wcs_unsupported"


class PsfUndefined(AlgorithmError):
    """The PSF model has no value at the asked position."""

    code = "psf_undefined"
