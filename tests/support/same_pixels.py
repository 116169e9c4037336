"""Pairs whose pixels are alike to the last bit and lie at one place, whatever files they came from, are subtracted once."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diffim.pipeline import Differencing
from exposure import Exposure, Instrument
from service.pairs import difference
from service.pairs.prepare import prepare_pair

__all__ = ["SamePixels"]

BORDER, STEP = 40, 8  # px: the positions that are compared reach as far as the template is resampled
ALIKE = 1e-4 / 3600  # degrees, a four thousandth of a pixel: what frames of the sky lose when they are converted


class SamePixels:
    """Stands in `service.pairs.difference` for the work on the pixels of a pair; the template must always be the same.

    What a file says is read, checked, reported and written on cards for every pair. Preparing and subtracting are
    left out where an earlier pair had the same planes and numbers of the detector, and positions on the sky within `ALIKE`.

    Attributes
    ----------
    subtracted
        How many pairs were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.subtracted = 0
        self._key: tuple[Any, ...] = ()
        self._skies: list[np.ndarray] = []
        self._prepared: dict[tuple[Any, ...], Any] = {}
        self._results: dict[tuple[Any, ...], Any] = {}
        self._prepare, self._run = prepare_pair, Differencing.run
        monkeypatch.setattr(difference, "prepare_pair", self.prepare_pair)
        monkeypatch.setattr(Differencing, "run", lambda pipeline, *pair: self.run(pipeline, *pair))

    def forget(self) -> None:
        """Let go what is kept, 3 MB a pair: none that comes now is like an earlier one."""
        self._prepared.clear()
        self._results.clear()
        self._skies.clear()

    def prepare_pair(self, new: Exposure, old: Exposure, rules: Instrument, registered: bool, register: bool) -> Any:
        """Do what the function of this name does, or give what it gave."""
        self._key = (*_facts(new), self._sky(new), registered, register)
        if self._key not in self._results:
            pair = self._prepare(new, old, rules, registered, register)
            self._prepared[self._key] = deepcopy(pair)
            return pair
        pair = deepcopy(self._prepared[self._key])
        pair[0].metadata["header"] = new.metadata["header"]
        return pair

    def run(self, pipeline: Differencing, *pair: Any) -> Any:
        """Do what the method does, or give the result and the numbers that it gave."""
        if self._key not in self._results:
            self.subtracted += 1
            result = self._run(pipeline, *pair)
            assert result.subtractedExposure is not None
            kept = replace(result, warpedExposure=result.subtractedExposure, subtractRes=None)  # nobody looks at them
            self._results[self._key] = deepcopy((kept, pipeline.numbers))
            return result
        result, numbers = deepcopy(self._results[self._key])
        pipeline.numbers.update(numbers)
        return result

    def _sky(self, new: Exposure) -> int:
        """Return which of the skies that were seen this is: where the image lies; a new one is noted."""
        if new.wcs is None:
            return -1
        y, x = np.mgrid[-BORDER : new.height + BORDER : STEP, -BORDER : new.width + BORDER : STEP].astype(np.float64)
        sky = np.array(new.wcs.pixel_to_sky(x.ravel(), y.ravel()))
        for number, seen in enumerate(self._skies):
            if seen.shape == sky.shape and np.abs(seen - sky).max() < ALIKE:
                return number
        self._skies.append(sky)
        return len(self._skies) - 1


def _facts(new: Exposure) -> tuple[Any, ...]:
    """Return all else that the pixels of a difference depend on, to the bit."""
    planes = [(a.dtype.str, a.shape, a.tobytes()) for a in (new.image, new.variance, new.mask)]
    numbers = {k: v for k, v in new.metadata.items() if k != "header"}
    return *planes, new.origin, new.band, repr(numbers), repr(new.visit_info), new.wcs_problem
