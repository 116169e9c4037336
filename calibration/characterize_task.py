"""`CharacterizeTask`: a frame becomes a calibrated exposure with its sources, as the service makes it."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from lsst.pipe.base import Struct

from calibration.characterize import characterize
from calibration.refcat import COLUMNS, ReferenceStars
from calibration.source_columns import no_sources
from exposure import Exposure, Instrument, load_instrument
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.datasets import CCD, Columns, columns_of, needs, reads, writes
from tasks.quanta import quantum_errors

__all__ = ["CharacterizeConfig", "CharacterizeConnections", "CharacterizeTask", "needs_stars"]


class CharacterizeConnections(AlertTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """A frame in, an exposure and its sources out."""

    exposures = reads("post_isr_image", multiple=True)  # of the visit: one
    template_stars = needs("template_stars", multiple=True, deferLoad=True, minimum=0)
    exposure_out = writes("preliminary_visit_image")
    stars = writes("single_visit_star_unstandardized")
    stars_schema = columns_of("single_visit_star_unstandardized")


class CharacterizeConfig(AlertTaskConfig, pipelineConnections=CharacterizeConnections):  # type: ignore[call-arg]
    """Everything is said by the instrument file (``characterize``, ``zeropoint``, ``variance``)."""


class CharacterizeTask(AlertTask):
    """Variance, background, stars, PSF, aperture correction, astrometry, zero point: what a frame lacks."""

    ConfigClass = CharacterizeConfig
    _DefaultName = "calibrateImage"
    stars_schema = Columns("single_visit_star_unstandardized")

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the table of a frame without a source."""
        return {"single_visit_star_unstandardized": no_sources()}

    def run(self, exposure: Exposure, template_stars: Sequence[Any] = ()) -> Struct:
        """Characterise an exposure, in place.

        Parameters
        ----------
        template_stars
            Tables of stars (ra, dec in deg, flux in nJy), or handles of such.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            exposure, stars (its sources), report (numbers by name).

        Raises
        ------
        AlertProdError
            As `calibration.characterize.characterize`.
        """
        rules = load_instrument(exposure.require_visit_info().instrument)
        done = characterize(exposure, rules, _reference(template_stars) if needs_stars(rules) else None)
        for name, value in done.report.items():
            self.put(name, value)
        return Struct(exposure=done.exposure, stars=done.sources, report=done.report)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read, characterise, store."""
        with quantum_errors(self):
            inputs = butlerQC.get(inputRefs)
            result = self.run(inputs["exposures"][0], inputs.get("template_stars") or ())
        butlerQC.put(result.exposure, outputRefs.exposure_out)
        butlerQC.put(result.stars, outputRefs.stars)


def needs_stars(rules: Instrument) -> bool:
    """Return whether a camera is calibrated on reference stars."""
    return rules.zeropoint in ("relative", "refcat") or rules.characterize.astrometry == "relative"


def _reference(tables: Sequence[Any]) -> ReferenceStars:
    frames = [t if isinstance(t, pd.DataFrame) else t.get() for t in tables]
    empty = pd.DataFrame({name: [] for name in COLUMNS}, dtype=float)
    return ReferenceStars(pd.concat(frames, ignore_index=True) if frames else empty)
