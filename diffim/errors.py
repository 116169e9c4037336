"""Errors of the differencing room."""

from tasks.errors import AlgorithmError, CallerError, NoWork

__all__ = [
    "BadSubtraction",
    "DifferencingError",
    "InsufficientKernelSources",
    "MismatchError",
    "NoDiaSourcesError",
    "NoPsf",
    "NoTemplate",
    "NoTemplateCoverage",
    "SatelliteServiceError",
    "TemplateSetError",
    "WrongTemplate",
]


class DifferencingError(AlgorithmError):
    """The images could not be subtracted."""

    code = "differencing"


class InsufficientKernelSources(DifferencingError):
    """Too few stars to find the matching kernel."""

    code = "kernel_sources"


class BadSubtraction(DifferencingError):
    """The residuals of the stars are too large."""

    code = "bad_subtraction"


class WrongTemplate(DifferencingError):
    """The stars of the image are not in the template."""

    code = "wrong_template"


class NoDiaSourcesError(DifferencingError):
    """No source is left, and the configuration asks for one."""

    code = "no_dia_sources"


class SatelliteServiceError(DifferencingError):
    """The satellite filter service does not answer as it should."""

    code = "satellite_service"


class MismatchError(CallerError):
    """Template and science differ in WCS, band or box."""

    code = "mismatch"


class NoTemplate(CallerError):
    """There is no template set of that name and band."""

    code = "template_missing"


class TemplateSetError(CallerError):
    """A template set is incomplete, or would be overwritten."""

    code = "template_set"


class NoPsf(NoWork):
    """The PSF of one of the images is defined nowhere."""

    code = "no_psf"


class NoTemplateCoverage(NoWork):
    """The template covers too little of the image."""

    code = "template_coverage"
