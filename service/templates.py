"""Template sets from frames on disk: characterise each, relative ones to the stars of those before, then build."""

from collections.abc import Callable, Sequence
from pathlib import Path

from calibration import ReferenceStars
from calibration.characterize import characterize
from diffim.errors import TemplateSetError
from diffim.template import TemplateSet, build_template, merge_stars
from exposure import Exposure, Instrument

__all__ = ["template_from_frames"]


def template_from_frames(
    root: Path, name: str, frames: Sequence[Path], rules: Instrument, reference: ReferenceStars | None = None,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> TemplateSet:  # fmt: skip
    """Build a new version of a template set.

    Parameters
    ----------
    reference
        Reference catalogue; without one, the first frame sets the scale of relative cameras.

    Raises
    ------
    TemplateSetError
        No frame is given.
    """
    if not frames:
        raise TemplateSetError("a template needs at least one frame")
    done: list[Exposure] = []
    for number, path in enumerate(sorted(frames, key=lambda p: _time(p, rules)), start=1):
        exposure = Exposure.read_fits(path, rules)
        stars = reference
        if stars is None and done:
            stars = ReferenceStars(merge_stars(done, _scale(done, rules)))
        characterize(exposure, rules, stars)
        done.append(exposure)
        progress("characterise", number, len(frames))
    tile = 1024 if max(done[0].width, done[0].height) > 512 else 512
    return build_template(
        root, name, done, pixel_scale=_scale(done, rules), tile=tile, progress=lambda d, n: progress("coadd", d, n)
    )


def _scale(frames: list[Exposure], rules: Instrument) -> float:
    """Return arcsec per pixel: what the instrument file says, else what the first frame has."""
    return rules.pixel_scale or frames[0].pixel_scale_arcsec()


def _time(path: Path, rules: Instrument) -> float:
    from exposure.fits import open_fits
    from exposure.plain import header_visit_info

    with open_fits(path) as hdus:
        return header_visit_info(hdus, rules).midpoint_mjd_tai
