"""Sources at known places, and the search for them."""

import numpy as np
import pandas as pd

from diffim import ImageDifferenceTask
from tasks import make_task
from tests.support.matched_pair import Fixture

__all__ = ["GIVEN", "apart", "paired", "search"]

GIVEN = {"doSubtract": False, "doScaleVariance": False, "doFindCosmicRays": False, "doMaskStreaks": False,
         "doReliability": False}  # fmt: skip


def apart(origin, flux=None, margin=25):
    """Twenty sources that do not touch: a jittered grid."""
    f = Fixture(origin)
    rng = np.random.default_rng(8)
    x, y = np.meshgrid(np.linspace(margin, 255 - margin, 5), np.linspace(margin, 255 - margin, 4))
    f.x, f.y = (a.ravel() + rng.uniform(-4, 4, 20) for a in (x, y))
    if flux is not None:
        f.flux = np.broadcast_to(flux, 20).astype(float).copy()
    return f


def search(difference, science=None, template=None, ids=None, **config):
    """Detect and measure on a difference."""
    science = difference.copy() if science is None else science
    if template is None:
        template = difference.copy()
        template.image[:] = 0
    task = make_task(ImageDifferenceTask, {**GIVEN, **config})
    given = difference.copy()
    sources = pd.DataFrame({c: np.zeros(0) for c in ("x", "y", "snr", "psfFlux")}).assign(flagged=False)
    r = task.run(science.copy(), sources, template.copy(), idFactory=ids, subtractedExposure=given)
    return task, r.diaSources, r.subtractedExposure


def paired(table, f):
    """Distance to the nearest row, and its index, for each source of the fixture."""
    x, y = f.x + f.origin[0], f.y + f.origin[1]
    d = np.hypot(x[:, None] - table.x.to_numpy(), y[:, None] - table.y.to_numpy())
    return d.min(1), d.argmin(1)
