"""Packets as tables and pictures: pandas for rows, PNG for people; light curves and cutouts are those of the client.

Works for packets of every Rubin schema; the cutouts of ZTF packets too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.timeseries import TimeSeries

from alertprod_client.views import STAMPS, cutout, light_curve, stamp_images

__all__ = ["cutout", "draw_alert", "forced_frame", "light_curve", "sources_frame", "stamp_images"]

_COLOURS = {"u": "#56b4e9", "g": "#008060", "r": "#ff4000", "i": "#850000", "z": "#6600cc", "y": "#000000"}
Packet = Mapping[str, Any]


def sources_frame(packet: Packet) -> pd.DataFrame:
    """Return the trigger and the earlier DiaSources, one row each, in order of time."""
    rows = [*(packet.get("prvDiaSources") or []), packet["diaSource"]]
    return pd.DataFrame(rows).sort_values("midpointMjdTai", ignore_index=True)


def forced_frame(packet: Packet) -> pd.DataFrame:
    """Return the forced photometry at the object's position, one row each, in order of time."""
    rows = packet.get("prvDiaForcedSources") or []
    return pd.DataFrame(rows).sort_values("midpointMjdTai", ignore_index=True) if rows else pd.DataFrame()


def draw_alert(packet: Packet, path: Path | str) -> None:
    """Draw the cutouts and, where the packet has one, the light curve, as PNG.

    Each stamp has its own scale, from the median and the scatter of its pixels; missing pixels are hatched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curve = light_curve(packet) if "diaSource" in packet else None
    figure = Figure(figsize=(9, 6 if curve is not None else 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 if curve is not None else 1, 3)
    images = stamp_images(packet)
    for k, name in enumerate(STAMPS):
        _draw_stamp(figure.add_subplot(grid[0, k]), name, images.get(name))
    if curve is not None:
        _draw_curve(figure.add_subplot(grid[1, :]), curve)
    figure.suptitle(_title(packet))
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _title(packet: Packet) -> str:
    if "diaSource" not in packet:
        return str(packet.get("objectId") or packet.get("candid") or "")
    s = packet["diaSource"]
    owner = f"diaObject {s['diaObjectId']}" if s.get("diaObjectId") else f"solar-system object {s.get('ssObjectId')}"
    return f"{s['diaSourceId']}  ({owner})\nRA {s['ra']:.6f}  Dec {s['dec']:+.6f}  {s.get('band') or ''}"


def _draw_stamp(axes: Any, name: str, image: "np.ndarray[Any, Any] | None") -> None:
    axes.set_title(name)
    axes.set_xticks([])
    axes.set_yticks([])
    if image is None:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    good = image[np.isfinite(image)]
    median = float(np.median(good)) if good.size else 0.0
    scatter = 1.4826 * float(np.median(np.abs(good - median))) if good.size else 1.0
    axes.set_facecolor("#8899bb")
    axes.imshow(image, origin="lower", cmap="gray", vmin=median - 3 * scatter, vmax=median + 10 * (scatter or 1.0))


def _draw_curve(axes: Any, curve: TimeSeries) -> None:
    times, errors = np.asarray(curve["time"].mjd), curve["fluxErr"].value
    errors = np.where(errors >= 0, errors, np.nan)
    for band in sorted(set(curve["band"])):
        for kind, marker, fill in (("source", "o", "full"), ("forced", "v", "none")):
            rows = (curve["band"] == band) & (curve["kind"] == kind)
            if rows.any():
                axes.errorbar(
                    times[rows],
                    curve["flux"].value[rows],
                    errors[rows],
                    fmt=marker,
                    fillstyle=fill,
                    ms=5,
                    lw=1,
                    color=_COLOURS.get(band, "#555555"),
                    label=f"{band} {kind}",
                )
    margin = max(1.0, 0.05 * float(np.ptp(times)))
    axes.set_xlim(times.min() - margin, times.max() + margin)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xlabel("MJD (TAI)")
    axes.set_ylabel("difference flux (nJy)")
    axes.ticklabel_format(useOffset=False, axis="x")
    axes.legend(fontsize="small", ncols=2)
