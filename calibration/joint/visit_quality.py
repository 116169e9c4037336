"""What the images of a visit say together: one row per visit of the table of images."""

import numpy as np
import pandas as pd

__all__ = ["by_visit"]

HALVES = ("astrometry", "photometry")


def by_visit(images: pd.DataFrame) -> pd.DataFrame:
    """Return one row per visit.

    Parameters
    ----------
    images
        One row per image and HALF_matched and so on, see `calibration.joint.image_quality.by_image`.

    Returns
    -------
    table
        visit, images, sources, and for each half that was fitted: HALF_matched, HALF_kept, HALF_matched_share (of the sources),
        HALF_kept_share (of what was matched), HALF_rms and HALF_chi2_per_dof (images weighted by what they keep; NaN without any), and
        HALF_weak and HALF_lost, numbers of images.
    """
    groups = images.groupby("visit")
    out = groups.agg(images=("detector", "size"), sources=("sources", "sum"))
    for half in HALVES:
        if f"{half}_kept" not in images:
            continue
        for name in ("matched", "kept", "weak", "lost"):
            out[f"{half}_{name}"] = groups[f"{half}_{name}"].sum().astype(np.int64)
        out[f"{half}_matched_share"] = out[f"{half}_matched"] / out.sources.clip(lower=1)
        out[f"{half}_kept_share"] = out[f"{half}_kept"] / out[f"{half}_matched"].clip(lower=1)
        kept = images[f"{half}_kept"]
        square, chi2 = images[f"{half}_rms"] ** 2, images[f"{half}_chi2_per_dof"]
        out[f"{half}_rms"] = np.sqrt(_weighted(square, kept, images.visit))
        out[f"{half}_chi2_per_dof"] = _weighted(chi2, kept, images.visit)
    return out.reset_index()


def _weighted(values: pd.Series, weight: pd.Series, visit: pd.Series) -> pd.Series:
    """Return the mean of the finite values of each visit; NaN without any."""
    weight = weight.where(values.notna(), 0)
    total = weight.groupby(visit).sum()
    return (values.fillna(0.0) * weight).groupby(visit).sum() / total.where(total > 0)
