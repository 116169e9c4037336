"""`CharacterizeTask`: a frame becomes a calibrated exposure with its sources, as the service makes it."""

from collections.abc import Sequence
from typing import Any

import lsst.pipe.base.connectionTypes as cT
import pandas as pd
from lsst.pipe.base import Struct

from calibration.characterize import characterize
from calibration.refcat import COLUMNS, ReferenceStars
from exposure import Exposure, Instrument, load_instrument
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.quanta import quantum_errors
from tasks.storage_classes import EXPOSURE

__all__ = ["CharacterizeConfig", "CharacterizeConnections", "CharacterizeTask", "needs_stars"]

_CCD = ("instrument", "visit", "detector")


class CharacterizeConnections(AlertTaskConnections, dimensions=_CCD):  # type: ignore[call-arg]
    """A frame in, an exposure and its sources out."""

    exposures = cT.Input(
        doc="Frames of the visit: one.",
        name="post_isr_image",
        storageClass=EXPOSURE,
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    template_stars = cT.PrerequisiteInput(
        doc="Stars of the template set, for relative calibrations.",
        name="template_stars",
        storageClass="DataFrame",
        dimensions=("htm7", "band"),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    exposure_out = cT.Output(
        doc="Exposure that lacks nothing.", name="preliminary_visit_image", storageClass=EXPOSURE, dimensions=_CCD
    )
    stars = cT.Output(
        doc="Its sources.", name="single_visit_star_unstandardized", storageClass="DataFrame", dimensions=_CCD
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        self.inputs.remove("exposure")


class CharacterizeConfig(AlertTaskConfig, pipelineConnections=CharacterizeConnections):  # type: ignore[call-arg]
    """Everything is said by the instrument file (``characterize``, ``zeropoint``, ``variance``)."""


class CharacterizeTask(AlertTask):
    """Variance, background, stars, PSF, aperture correction, astrometry, zero point: what a frame lacks."""

    ConfigClass = CharacterizeConfig
    _DefaultName = "calibrateImage"

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
        inputs = butlerQC.get(inputRefs)
        with quantum_errors(self):
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
