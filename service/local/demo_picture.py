"""The demo's picture: light curves and stamp triplets of the best transient and the best variable.

Fluxes are those on the science image, as those of the truth are; a galaxy below a transient adds to them.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from exposure.io.native import open_fits

__all__ = ["draw"]


def draw(path: Path, alerts: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    """Write the picture; objects without a match in the truth are left out."""
    matched = verdict["matched"]
    chosen = [(kind, _best(matched, kind)) for kind in ("transient", "variable")]
    chosen = [(kind, who) for kind, who in chosen if who is not None]
    figure = plt.figure(figsize=(12, 4.4 * max(len(chosen), 1)), layout="constrained")
    figure.suptitle(
        f"{verdict['n_alerts']} alerts, purity {verdict['purity']:.2f}, completeness {verdict['completeness']:.2f} at S/N >= 10"
    )
    for row, (kind, who) in enumerate(chosen):
        rows = matched[(matched.trueKind == kind) & (matched.trueId == who)].sort_values("midpointMjdTai")
        brightest = alerts_of(alerts, int(rows.loc[rows.snr.idxmax(), "diaSourceId"]))
        _light_curve(figure.add_subplot(len(chosen), 4, 4 * row + 1), kind, rows, brightest, alerts)
        for k, name in enumerate(("cutoutScience", "cutoutTemplate", "cutoutDifference")):
            _stamp(figure.add_subplot(len(chosen), 4, 4 * row + 2 + k), brightest[name], name.removeprefix("cutout"))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _best(matched: pd.DataFrame, kind: str) -> str | None:
    own = matched[matched.trueKind == kind] if len(matched) else matched
    if own.empty:
        return None
    score = own.groupby("trueId").agg(n=("snr", "size"), snr=("snr", "max"))
    return str(score.sort_values(["n", "snr"]).index[-1])


def alerts_of(alerts: list[dict[str, Any]], source_id: int) -> dict[str, Any]:
    """Return the alert with this diaSourceId."""
    return next(a for a in alerts if a["diaSourceId"] == source_id)


def _light_curve(axes: Any, kind: str, rows: pd.DataFrame, best: dict[str, Any], alerts: list[dict[str, Any]]) -> None:
    owner = int(rows.diaObjectId.mode().iloc[0])
    forced = {
        f["diaForcedSourceId"]: f
        for a in alerts
        if a["diaSource"]["diaObjectId"] == owner
        for f in a["prvDiaForcedSources"] or []
    }
    start = rows.midpointMjdTai.min()
    if forced:
        f = pd.DataFrame(list(forced.values())).sort_values("midpointMjdTai")
        axes.errorbar(
            f.midpointMjdTai - start, f.scienceFlux, f.scienceFluxErr, fmt="s", mfc="none", c="0.5", label="forced"
        )
    axes.errorbar(rows.midpointMjdTai - start, rows.scienceFlux, rows.scienceFluxErr, fmt="o", label="detections")
    axes.plot(rows.midpointMjdTai - start, rows.trueFlux, "x", c="tab:red", label="truth")
    axes.set(
        xlabel=f"days after MJD {start:.2f}",
        ylabel="total flux, on the science image (nJy)",
        title=f"{kind} {best['diaSource']['diaObjectId']}",
    )
    axes.axhline(0, c="0.8", zorder=0)
    axes.legend(fontsize=7)


def _stamp(axes: Any, cutout: bytes | None, title: str) -> None:
    axes.set(title=title, xticks=[], yticks=[])
    if cutout is None:
        return
    with open_fits(io.BytesIO(cutout)) as hdus:
        image = np.asarray(hdus[0].data)
    low, high = np.nanpercentile(image, [2, 99.5])
    axes.imshow(image, origin="lower", vmin=low, vmax=high, cmap="gray")
