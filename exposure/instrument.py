"""Instrument files: one YAML per camera that says how to read its images and what its numbers mean."""

import os
import re
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from astropy.io.fits import Header
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exposure.errors import BandUnknown, InstrumentError
from tasks.ids import IdPacker

__all__ = ["BANDS", "HeaderRule", "Instrument", "TimeRule", "load_instrument", "visit_from_mjd"]

BANDS = ("u", "g", "r", "i", "z", "y")
_STRICT = ConfigDict(extra="forbid", frozen=True)


class HeaderRule(BaseModel):
    """Where one quantity comes from: a header key (with regex, factor, offset) or a constant."""

    model_config = _STRICT
    key: str | None = None
    constant: Any = None
    regex: str | None = None
    factor: float = 1.0
    offset: float = 0.0

    def text(self, header: Header) -> str:
        """Return the raw text of the card, cut out by the regex.

        Raises
        ------
        InstrumentError
            The card is missing or the regex does not match.
        """
        if self.key is None:
            return str(self.constant)
        if self.key not in header:
            if self.constant is not None:
                return str(self.constant)
            raise InstrumentError(f"the header has no {self.key} card")
        text = str(header[self.key]).strip()
        if self.regex is None:
            return text
        match = re.search(self.regex, text)
        if match is None:
            raise InstrumentError(f"the header's {self.key}={text!r} does not match {self.regex!r}")
        return "".join(match.groups()) if match.groups() else match.group(0)

    def number(self, header: Header) -> float:
        """Return the value as a number: text * factor + offset."""
        text = self.text(header)
        try:
            return float(text) * self.factor + self.offset
        except ValueError as error:
            raise InstrumentError(f"{self.key or 'constant'}={text!r} is no number") from error


class TimeRule(HeaderRule):
    """A time card: its format, time scale, and whether it is the start, the middle or the end of the exposure."""

    format: str = "isot"
    scale: Literal["utc", "tai", "tt"] = "utc"
    at: Literal["start", "mid", "end"] = "start"

    def mjd_tai(self, header: Header, exposure_time: float) -> float:
        """Return the mid-exposure as MJD TAI."""
        from astropy.time import Time  # with the coordinates, a third of a second to load

        text = self.text(header)
        try:
            if "%" in self.format:
                moment = Time(datetime.strptime(text, self.format), scale=self.scale)
            elif self.format in ("mjd", "jd"):
                moment = Time(float(text), format=self.format, scale=self.scale)
            else:
                moment = Time(text, format=self.format, scale=self.scale)
        except ValueError as error:
            raise InstrumentError(f"{self.key}={text!r} is no time in format {self.format!r}") from error
        shift = {"start": 0.5, "mid": 0.0, "end": -0.5}[self.at]
        return float(moment.tai.mjd + shift * exposure_time / 86400.0)


class Planes(BaseModel):
    """Which HDU holds which plane; None when the file has none."""

    model_config = _STRICT
    image: int | str = 0
    mask: int | str | None = None
    variance: int | str | None = None
    weight: int | str | None = Field(None, description="inverse variances")
    sigma: int | str | None = Field(None, description="standard deviations")
    psf: int | str | None = None


class IdSizes(BaseModel):
    """Upper bounds that set the widths of the id fields."""

    model_config = _STRICT
    n_visits: int = 10**11
    n_detectors: int = 1
    n_releases: int = 64


class Characterize(BaseModel):
    """Numbers of the characterisation that depend on the camera."""

    model_config = _STRICT
    background_mesh: int = 64
    psf_order: int = 2
    astrometry: Literal["header", "relative"] = "header"
    systematic_fraction: float = 0.0
    smoothing: float = Field(0.0, ge=0, le=3, description="sigma in px of a Gaussian that undersampled images need")


class Instrument(BaseModel):
    """One camera. Quantities are rules on header cards; see ``docs/instruments.md``."""

    model_config = _STRICT
    name: str
    pixel_scale: float | None = Field(
        None,
        description="nominal arcsec per pixel, the scale of its templates; without it, that of the first frame's WCS",
    )
    planes: Planes = Planes()
    mask_bits: dict[str, int] = {}
    bad_edge: int = Field(0, ge=0, description="rows and columns at each edge that are no good")
    exposure_time: HeaderRule = HeaderRule(key="EXPTIME")
    midpoint: TimeRule = TimeRule(key="DATE-OBS")
    detector: HeaderRule = HeaderRule(constant=0)
    visit: HeaderRule | None = None
    visit_rule: Literal["yymmddsssss", "yyyymmddsssss"] = "yymmddsssss"
    band: HeaderRule = HeaderRule(key="FILTER")
    band_map: dict[str, str] = {}
    boresight_ra: HeaderRule | None = None
    boresight_dec: HeaderRule | None = None
    rotation: HeaderRule = HeaderRule(constant=0.0)
    airmass: HeaderRule | None = None
    target: HeaderRule | None = None
    gain: HeaderRule | None = Field(None, description="electrons per count; without it, it is estimated from the image")
    read_noise: HeaderRule = HeaderRule(constant=0.0)
    saturation: HeaderRule | None = None
    variance: Literal["plane", "gain", "empirical"] = "gain"
    variance_file: Literal["variance", "weight", "sigma"] = Field(
        "variance",
        description="what a variance in a file of its own holds: variances, their inverse, or standard deviations",
    )
    zeropoint: Literal["header", "fixed", "refcat", "relative"] = "fixed"
    zeropoint_value: HeaderRule = HeaderRule(constant=31.4)
    ids: IdSizes = IdSizes()
    characterize: Characterize = Characterize()
    task_config: dict[str, dict[str, Any]] = {}

    def band_of(self, header: Header) -> tuple[str, str]:
        """Return (band, physical filter).

        Raises
        ------
        BandUnknown
            The filter maps to none of ugrizy.
        """
        physical = self.band.text(header)
        band = self.band_map.get(physical, physical)
        if band not in BANDS:
            raise BandUnknown(
                f"filter {physical!r} maps to {band!r}, which is none of {''.join(BANDS)}: add it to band_map of "
                f"instrument {self.name}"
            )
        return band, physical

    def packer(self) -> IdPacker:
        """Return the id layout of this camera."""
        return IdPacker(self.ids.n_visits, self.ids.n_detectors, self.ids.n_releases)


def visit_from_mjd(mjd_tai: float, rule: str = "yymmddsssss") -> int:
    """Return the visit number for a time: date, then seconds of the day (TAI), for example 17122005623."""
    from astropy.time import Time

    moment = Time(mjd_tai, format="mjd", scale="tai").to_datetime()
    assert isinstance(moment, datetime)
    moment = moment.replace(tzinfo=UTC)
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
    day = moment.strftime("%y%m%d" if rule.startswith("yymm") else "%Y%m%d")
    return int(f"{day}{seconds:05d}")


def _candidates(name: str) -> list[Path]:
    extra = [Path(p) for p in os.environ.get("ALERTPROD_INSTRUMENTS", "").split(os.pathsep) if p]
    packaged = Path(str(files("exposure") / "instruments"))
    return [Path(name)] if name.endswith((".yaml", ".yml")) else [d / f"{name}.yaml" for d in (*extra, packaged)]


@lru_cache(maxsize=32)
def load_instrument(name: str) -> Instrument:
    """Load an instrument by name (user directories in ALERTPROD_INSTRUMENTS first) or by the path of its file.

    Raises
    ------
    InstrumentError
        No such file, or a file that breaks the rules; the message lists every problem.
    """
    found = next((p for p in _candidates(name) if p.is_file()), None)
    if found is None:
        tried = ", ".join(str(p) for p in _candidates(name))
        raise InstrumentError(f"no instrument file for {name!r} (tried {tried})")
    try:
        return Instrument.model_validate(yaml.safe_load(found.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise InstrumentError(f"instrument file {found} is wrong: {error}") from error
