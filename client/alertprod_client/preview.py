"""How an alert shows itself to people: a line of text; for notebooks its stamps, its facts and a small light curve."""

from collections.abc import Mapping
from html import escape
from typing import Any

from alertprod_client.corrections import KnownCorrections
from alertprod_client.errors import AlertError

__all__ = ["alert_facts", "alert_html", "alert_text"]

WIDTH, HEIGHT = 360, 120  # px of the light curve
MOST_POINTS = 300
Packet = Mapping[str, Any]


def alert_text(packet: Packet, name: str = "Alert", known: KnownCorrections | None = None) -> str:
    """Return one line about a packet, for ``repr``: id, owner, place, band, flux, and how much history it carries."""
    return f"<{name} {', '.join(f'{k} {v}'.strip()[:60] for k, v in alert_facts(packet, known)[:8])}>"


def _number(source: Packet, key: str, form: str) -> str:
    """Return a number as text; of what is no number, a question mark: a text about a packet never fails."""
    value = source.get(key)
    return format(float(value), form) if isinstance(value, int | float) else "?"


def alert_facts(packet: Packet, known: KnownCorrections | None = None) -> list[tuple[str, str]]:
    """Return what there is to say about a packet, as (name, text); the first one, the id, has no name."""
    source = packet.get("diaSource")
    if not source:  # ZTF's packets, and whatever else has cutouts
        return [("objectId", str(packet.get("objectId") or packet.get("candid") or "unknown"))]
    out = [("", str(packet.get("diaSourceId", source.get("diaSourceId"))))]
    known = known or KnownCorrections()
    trigger = source.get("diaSourceId")
    owner = known.owner(trigger, source.get("diaObjectId"))
    if known.is_withdrawn(trigger):
        out.append(("withdrawn", "the source was taken back"))
    if owner:
        out.append(("object", str(owner)))
    elif source.get("ssObjectId"):
        out.append(("solar-system object", str(source["ssObjectId"])))
    out.append(("RA", f"{_number(source, 'ra', '.5f')} Dec {_number(source, 'dec', '+.5f')}"))
    out += [("band", str(source["band"]))] if source.get("band") else []
    out.append(("MJD", _number(source, "midpointMjdTai", ".5f")))
    out.append(("flux", f"{_number(source, 'psfFlux', '.0f')} +- {_number(source, 'psfFluxErr', '.0f')} nJy"))
    if source.get("reliability") is not None:
        out.append(("reliability", _number(source, "reliability", ".2f")))
    earlier, forced = (len(packet.get(k) or []) for k in ("prvDiaSources", "prvDiaForcedSources"))
    out.append(("history", f"{earlier} sources + {forced} forced"))
    return out


def alert_html(packet: Packet, known: KnownCorrections | None = None) -> str:
    """Return what a notebook shows of a packet; all text is escaped, cutouts that cannot be read are named as such."""
    import numpy as np  # these and what they load are for notebooks alone

    from alertprod_client.pictures import grey_png, html_block, img
    from alertprod_client.views import STAMPS, stamp_images

    try:
        images, problem = stamp_images(packet), ""
    except AlertError as error:
        images, problem = {}, str(error)
    stamps = []
    for name in (n for n in STAMPS if n in images):
        png = grey_png(images[name].astype(np.float64), np.isfinite(images[name]), name == "Difference")
        label = f"{name}; missing pixels are blue"
        stamps.append(f"<figure style='margin:0'>{img(png, label)}<figcaption>{name}</figcaption></figure>")
    table = [(k or "diaSourceId", v[:80]) for k, v in alert_facts(packet, known)]
    if problem:
        table.append(("cutouts", problem[:200]))
    return html_block("Alert", [*stamps, _curve(packet, known)], table)


def _curve(packet: Packet, corrections: KnownCorrections | None) -> str:
    """Return the light curve as an SVG element: sources filled, forced photometry open; nothing for a single point."""
    source = packet.get("diaSource") or {}
    if any(name not in source for name in ("midpointMjdTai", "band", "psfFlux", "psfFluxErr")):
        return ""
    import numpy as np

    from alertprod_client.views import light_curve

    curve = light_curve(packet, corrections)[-MOST_POINTS:]
    time, flux = np.asarray(curve["time"].mjd), np.asarray(curve["flux"].value)
    error = np.nan_to_num(np.asarray(curve["fluxErr"].value))
    finite = np.isfinite(time) & np.isfinite(flux)
    if finite.sum() < 2:
        return ""
    low, high = float((flux - error)[finite].min()), float((flux + error)[finite].max())
    low, high = min(low, 0.0), max(high, 0.0)
    span, range_ = float(np.ptp(time[finite])) or 1.0, (high - low) or 1.0
    x = 8 + (WIDTH - 16) * (time - time[finite].min()) / span
    y, up, down = (8 + (HEIGHT - 16) * (high - v) / range_ for v in (flux, flux + error, flux - error))
    zero = 8 + (HEIGHT - 16) * high / range_
    marks = [f"<line x1='0' x2='{WIDTH}' y1='{zero:.1f}' y2='{zero:.1f}' stroke='#bbb'/>"]
    for k in np.flatnonzero(finite):  # each point is an element of its own
        fill = "#333" if curve["kind"][k] == "source" else "none"
        marks.append(f"<line x1='{x[k]:.1f}' x2='{x[k]:.1f}' y1='{up[k]:.1f}' y2='{down[k]:.1f}' stroke='#777'/>")
        marks.append(f"<circle cx='{x[k]:.1f}' cy='{y[k]:.1f}' r='3' fill='{fill}' stroke='#333'/>")
    label = escape(f"flux from {low:.0f} to {high:.0f} nJy over {span:.2f} d; forced photometry open")
    return f"<svg width='{WIDTH}' height='{HEIGHT}' role='img'><title>{label}</title>{''.join(marks)}</svg>"
