"""Is the template of the image's field, and does it lie where it should?"""

from dataclasses import dataclass

import numpy as np

from diffim.checks.common_stars import CommonStars, find_common_stars
from diffim.checks.elsewhere import find_elsewhere, moved_by
from exposure import Exposure
from exposure.stars import Stars

__all__ = ["Found", "Search"]

LEAST_APART = 8  # isolated stars that the two images are compared by; fewer: by all


@dataclass(frozen=True)
class Found:
    """The template, moved by `shift` (px) where that was allowed; the stars of both; what is wrong with it, or nothing.

    ``apart`` says that the stars are isolated ones.
    """

    template: Exposure
    common: CommonStars
    apart: bool
    shift: tuple[float, float] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Search:
    """How the stars of an image are looked for in a template.

    Parameters
    ----------
    fwhms
        Of the PSFs of image and template, px.
    unit_ratio
        Counts of the image per count of the template by their calibrations, where both have one.
    least
        Share of the stars that must be there.
    reach
        Largest shift (px) that is taken out.
    """

    fwhms: tuple[float, float]
    unit_ratio: float | None
    least: float
    reach: float

    def run(self, science: Exposure, template: Exposure, stars: Stars) -> Found:
        """Look for the bright ones of the sources of the image."""
        bright = stars.take((stars.snr > 20) & ~stars.flagged)
        apart = bright.take(bright.isolated)
        enough = len(apart) >= LEAST_APART
        bright = apart if enough else bright
        common = find_common_stars(science, template, bright, self.fwhms, self.unit_ratio)
        if not common.share < self.least:
            return Found(template, common, enough)
        from diffim.measurement.science_stars import detect_kernel_sources  # which few pairs need

        own = Stars.of(detect_kernel_sources(template))
        if self._back(science, template, own) >= self.least:  # most of the image's sources are new
            return Found(template, common, enough)
        where, shift = find_elsewhere(science, bright, own), None
        if where.shift is not None and np.hypot(*where.shift) <= self.reach:
            template, shift = moved_by(template, where.shift), where.shift
            common = find_common_stars(science, template, bright, self.fwhms, self.unit_ratio)
            if not common.share < self.least:
                return Found(template, common, enough, shift)
        text = (
            f"of {common.n_expected} bright stars of the image the template has {common.n_found} at their places, need "
            f"{100 * self.least:.0f} %: {where.text}; is it of the same field, and are both WCS right? (registerReach lets a "
            "shift of so many px be taken out)"
        )
        return Found(template, common, enough, shift, text)

    def _back(self, science: Exposure, template: Exposure, stars: Stars) -> float:
        """Return the share of the template's bright stars that the image has; 0 where they are too few to tell."""
        inside = science.contains(stars.x, stars.y, -3 * max(self.fwhms))
        bright = stars.take((stars.snr > 20) & ~stars.flagged & inside)
        apart = bright.take(bright.isolated)
        unit = None if self.unit_ratio is None else 1 / self.unit_ratio
        common = find_common_stars(
            template, science, apart if len(apart) >= LEAST_APART else bright, (self.fwhms[1], self.fwhms[0]), unit
        )
        return float(np.nan_to_num(common.share))
