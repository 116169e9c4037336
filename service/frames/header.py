"""What the header of a frame says by the rules of an instrument file, and what to write there where it says nothing."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from exposure import Instrument, SkyWcs
from exposure.header.cards import Cards
from exposure.header.rules import HeaderRule
from exposure.instrument import BANDS, visit_from_mjd
from exposure.io.opening import split_choice
from exposure.io.which_image import choose_image, plane_beside
from service.frames.findings import Findings
from tasks.errors import AlertProdError

__all__ = ["check_detector", "check_files", "check_identity", "check_wcs"]

_OTHERS = {
    "exposure_time": ("EXPTIME", "EXPOSURE", "EXP_TIME", "ITIME", "TEXP", "INTTIME", "TELAPSE", "XPOSURE"),
    "midpoint": ("DATE-OBS", "DATE-BEG", "MJD-OBS", "MJD_OBS", "MJD", "JD", "DATE", "UTSTART", "DATE-AVG"),
    "band": ("FILTER", "FILTER1", "FILTER2", "FILTERS", "FILTNAM", "FILTERID", "INSFLNAM", "BAND", "FILT"),
    "gain": ("GAIN", "EGAIN", "GAINA", "AVGGAIN", "HIERARCH ESO DET OUT1 CONAD"),
    "read_noise": ("RDNOISE", "READNOIS", "RON", "RDNOISEA", "READNOISE"),
    "saturation": ("SATURATE", "SATURAT", "SATLEVEL", "SATURATA"),
}
SCALE_TOLERANCE = 0.05


def check_files(findings: Findings, hdus: fits.HDUList, rules: Instrument, path: Path) -> int | None:
    """Note the HDUs, and which of them is read as what; returns the number of the image, None where there is none."""
    file, choice = split_choice(path)
    try:
        image = choose_image(hdus, rules, file.name, choice)
    except AlertProdError as error:
        image, why = None, error
    named = {n: getattr(rules.planes, n) for n in ("mask", "variance", "weight", "sigma", "psf")}
    hdu_of: dict[str, int | None] = {}
    for plane, called in named.items():
        if called is not None:
            try:
                hdu_of[plane] = plane_beside(hdus, image or 0, called, file.name)
            except AlertProdError as error:
                findings.lack(plane, f"{error.code}: {error}", f"planes: {{{plane}: NUMBER}}")
    for k, hdu in enumerate(hdus):
        header, use = hdu.header, ["image"] * (k == image) + [plane for plane, number in hdu_of.items() if number == k]
        axes = " x ".join(str(header.get(f"NAXIS{j + 1}")) for j in range(int(header.get("NAXIS", 0)))) or "no data"
        text = f"{axes}, BITPIX {header.get('BITPIX')}" + "".join(
            f", {c} {header[c]}" for c in ("BZERO", "BSCALE", "BLANK") if c in header
        )
        findings.add(f"HDU {k}", f"{hdu.name or 'PRIMARY'}: {text}", f"read as {', '.join(use)}" if use else "not read")
    if image is None:
        images = [k for k, h in enumerate(hdus) if int(h.header.get("NAXIS", 0)) >= 2]
        advice = f"planes: {{image: {images[0]}}}" if images else "name a file that holds an image"
        findings.lack("image", f"{why.code}: {why}", advice)
    for plane, where in hdu_of.items():
        if where is None:
            findings.lack(plane, f"there is no HDU {named[plane]!r}", f"planes: {{{plane}: null}}")
    return image


def _others(cards: Cards, quantity: str, rule: HeaderRule | None) -> str:
    """Return what to write where the header has other cards of the quantity."""
    own = None if rule is None else rule.key
    there = [key for key in _OTHERS[quantity] if key in cards and key != own]
    if not there:
        return f"{quantity}: {{key: CARD}} or {{constant: VALUE}}"
    extra = ", format: mjd" if there[0].startswith("MJD") else ", format: jd" if there[0] == "JD" else ""
    return f"{quantity}: {{key: {there[0]}{extra}}}  # the header has {', '.join(there)}"


def _source(rule: HeaderRule | None, named: bool) -> str:
    if rule is None:
        return "nowhere"
    if rule.key is None:
        return "constant" if named else "default"
    return f"card {rule.key}" + ("" if named else " (default)")


def check_identity(findings: Findings, cards: Cards, rules: Instrument) -> None:
    """Note time, visit, detector, band, and how many ids a visit has."""
    named = rules.model_fields_set
    exposure = findings.attempt(
        "exposure time, s",
        lambda: rules.exposure_time.number(cards),
        _source(rules.exposure_time, "exposure_time" in named),
        _others(cards, "exposure_time", rules.exposure_time),
    )
    rule = rules.midpoint
    said = f"{_source(rule, 'midpoint' in named)}, {rule.format}, {rule.scale}, {rule.at} of the exposure"
    if rule.key is not None and rule.key in cards:
        said += f": {_shown(cards, rule.key)}"
    midpoint = findings.attempt(
        "midpoint, MJD TAI", lambda: rule.mjd_tai(cards, exposure or 0.0), said, _others(cards, "midpoint", rule)
    )
    detector = findings.attempt(
        "detector",
        lambda: rules.detector.integer(cards),
        _source(rules.detector, "detector" in named),
        "detector: {key: CARD} or {constant: 0}",
    )
    visit: int | None
    if rules.visit is not None:
        own = rules.visit
        visit = findings.attempt("visit", lambda: own.integer(cards), _source(own, True), "visit: {key: CARD}")
    else:
        visit = None if midpoint is None else visit_from_mjd(midpoint, rules.visit_rule)
        if visit is not None:
            findings.add("visit", visit, f"the midpoint, as {rules.visit_rule}")
    _check_band(findings, cards, rules)
    packer = rules.packer()
    findings.add(
        "ids per visit",
        (1 << max(packer.counter_bits, 0)) - 1,
        f"ids: {packer.n_visits:.3g} visits, {packer.n_detectors} detectors",
        doubt="few sources fit into a visit" if packer.counter_bits < 16 else "",
        advice="ids: {n_visits: ..., n_detectors: ...}",
    )
    if visit is not None and detector is not None:
        try:
            packer.catalog_id(visit, detector)
        except AlertProdError as error:
            findings.lack("ids", str(error), f"ids: {{n_visits: {10 ** len(str(visit))}, n_detectors: {detector + 1}}}")


def _shown(cards: Cards, key: str) -> str:
    try:
        return cards.text(key)
    except AlertProdError:
        return "unreadable"


def _check_band(findings: Findings, cards: Cards, rules: Instrument) -> None:
    try:
        band, physical = rules.band_of(cards)
    except AlertProdError as error:
        advice = _others(cards, "band", rules.band)
        if error.code == "band_unknown":
            advice = f"band_map: {{{rules.band.text(cards)}: r}}  # one of {''.join(BANDS)}"
        findings.lack("band", f"{error.code}: {error}", advice)
        return
    findings.add("band", band, f"{_source(rules.band, 'band' in rules.model_fields_set)}: filter {physical!r}")


def check_detector(findings: Findings, cards: Cards, rules: Instrument) -> None:
    """Note gain, read noise, saturation, and where variances and the zero point come from."""
    named = rules.model_fields_set
    for name, unit, rule in (
        ("gain", "e-/count", rules.gain),
        ("read_noise", "e-", rules.read_noise),
        ("saturation", "counts", rules.saturation),
    ):
        label, advice = f"{name.replace('_', ' ')}, {unit}", _others(cards, name, rule if name in named else None)
        if rule is None:
            none = {
                "gain": "none is named: it is estimated from the image",
                "saturation": "no level is named: saturated stars are taken for stars",
            }
            findings.lack(label, none[name], advice, needed=False)
        elif name in named:
            findings.attempt(label, partial(rule.number, cards), _source(rule, True), advice)
        else:
            used = rules.variance == "gain" or (name == "gain" and rules.variance == "empirical")
            doubt = f"the file names none: {rule.constant} is assumed" if used else ""
            findings.add(label, rule.constant, "default", doubt, advice)
    planes = (rules.planes.variance, rules.planes.weight, rules.planes.sigma)
    named_plane = next((p for p in planes if p is not None), None)
    source = {
        "plane": f"the variance plane (HDU {named_plane!r})",
        "gain": "gain and read noise",
        "empirical": "the scatter of the sky, and the gain",
    }
    lacks = rules.variance == "plane" and named_plane is None
    findings.add(
        "variance",
        rules.variance,
        source[rules.variance],
        "no plane is named" if lacks else "",
        "planes: {variance: HDU} or variance: empirical",
    )
    zero: Sequence[Any] = (
        rules.zeropoint,
        {
            "header": _source(rules.zeropoint_value, True),
            "fixed": "zeropoint_value",
            "refcat": "a reference catalogue",
            "relative": "the stars of the template",
        }[rules.zeropoint],
    )
    findings.add("zero point", *zero)
    if rules.zeropoint == "fixed" and "zeropoint_value" not in named:
        findings.add(
            "zero point, mag",
            rules.zeropoint_value.constant,
            "default",
            "the file names none: fluxes stay in counts",
            "zeropoint_value: {constant: MAG}, or zeropoint: relative",
        )
    elif rules.zeropoint in ("header", "fixed"):
        findings.attempt(
            "zero point, mag", lambda: rules.zeropoint_value.number(cards), str(zero[1]), "zeropoint: relative"
        )


def check_wcs(findings: Findings, cards: Cards, rules: Instrument, shape: tuple[int, int]) -> None:
    """Note centre, scale, rotation and frame of the WCS."""
    advice = "solve the field and write a WCS into the header"
    try:
        wcs = SkyWcs.from_cards(cards.of_wcs())
    except AlertProdError as error:
        findings.lack("WCS", f"{error.code}: {error}", advice)
        return
    if wcs is None:
        findings.lack("WCS", "wcs_missing: the header has no celestial WCS (CTYPE1, CTYPE2)", advice)
        return
    own, x, y = cards.of_wcs(), (shape[1] - 1) / 2, (shape[0] - 1) / 2
    ra, dec = (float(np.ravel(v)[0]) for v in wcs.pixel_to_sky(x, y))
    scale = float(np.ravel(wcs.pixel_scale_arcsec(x, y))[0])
    north = wcs.sky_to_pixel(ra, min(dec + scale / 3600, 90.0))
    angle = float(np.degrees(np.arctan2(float(np.ravel(north[0])[0]) - x, float(np.ravel(north[1])[0]) - y)))
    east = wcs.sky_to_pixel(ra + scale / 3600 / max(np.cos(np.radians(dec)), 1e-6), dec)
    turn = (float(np.ravel(east[0])[0]) - x) * np.cos(np.radians(angle)) - (float(np.ravel(east[1])[0]) - y) * np.sin(
        np.radians(angle)
    )
    findings.add("centre, deg (ICRS)", f"{ra:.6f} {dec:+.6f}", f"WCS, {own.word('CTYPE1')} {own.word('CTYPE2')}")
    frame = (
        own.word("RADESYS")
        or own.word("RADECSYS")
        or (f"equinox {own.word('EQUINOX')}" if "EQUINOX" in own else "ICRS")
    )
    findings.add(
        "frame of the WCS", frame, "RADESYS, EQUINOX" if frame != "ICRS" or own.word("RADESYS") else "none is named"
    )
    off = rules.pixel_scale is not None and abs(scale / rules.pixel_scale - 1.0) > SCALE_TOLERANCE
    findings.add(
        "pixel scale, arcsec",
        round(scale, 5),
        "WCS",
        f"the instrument file says {rules.pixel_scale}" if off else "",
        f"pixel_scale: {scale:.4g}",
    )
    findings.add(
        "north, deg from +y to +x", round(angle, 3), f"WCS, east to the {'right' if turn > 0 else 'left'} of it"
    )
