"""Instrument files: one YAML per camera that says how to read its images and what its numbers mean."""

import os
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from exposure.errors import BandUnknown, InstrumentError
from exposure.flagging.bad_pixels import BadRegions
from exposure.header.cards import Cards, Source
from exposure.header.rules import ExposureTimeRule, HeaderRule, NotNegativeRule, PositiveRule, TimeRule
from tasks.errors import CallerError
from tasks.ids import IdPacker

__all__ = [
    "BANDS",
    "HeaderRule",
    "Instrument",
    "TimeRule",
    "find_instrument",
    "instrument_files",
    "load_instrument",
    "visit_from_mjd",
]

BANDS = ("u", "g", "r", "i", "z", "y")
LEAST_COUNTER_BITS = 10
_LONG_VISITS = 1 << 41  # above the numbers of the rule yyyymmddsssss until 2199
_STRICT = ConfigDict(extra="forbid", frozen=True)


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
    n_visits: int = Field(10**11, gt=0)
    n_detectors: int = Field(1, gt=0)
    n_releases: int = Field(64, gt=0)

    def packer(self) -> IdPacker:
        """Return the layout.

        Raises
        ------
        CallerError
            It leaves too few ids for the sources of one detector.
        """
        packer = IdPacker(self.n_visits, self.n_detectors, self.n_releases)
        if packer.counter_bits < LEAST_COUNTER_BITS:
            raise CallerError(
                f"n_visits {self.n_visits}, n_detectors {self.n_detectors}, n_releases {self.n_releases} leave "
                f"{packer.counter_bits} of 63 bits for the sources of a detector, {LEAST_COUNTER_BITS} are needed "
                f"({(1 << LEAST_COUNTER_BITS) - 1} sources)"
            )
        return packer


class Characterize(BaseModel):
    """Numbers of the characterisation that depend on the camera."""

    model_config = _STRICT
    background_mesh: int = Field(64, ge=8)
    psf_order: int = Field(2, ge=0)
    astrometry: Literal["header", "relative"] = "header"
    systematic_fraction: float = Field(0.0, ge=0, allow_inf_nan=False)
    smoothing: float = Field(0.0, ge=0, le=3, description="sigma in px of a Gaussian that undersampled images need")


class Instrument(BaseModel):
    """One camera. Quantities are rules on header cards; see ``docs/instruments.md``."""

    model_config = _STRICT
    name: str
    pixel_scale: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="nominal arcsec per pixel, the scale of its templates; without it, that of the first frame's WCS",
    )
    planes: Planes = Planes()
    mask_bits: dict[str, int] = {}
    bad_edge: int = Field(0, ge=0, description="rows and columns at each edge that are no good")
    bad_pixels: BadRegions = Field((), description="map (path) or list of regions of pixels that are bad on any frame")
    bad_pixels_from: str | None = Field(None, description="file that they come from, where it is not this one")
    exposure_time: ExposureTimeRule = ExposureTimeRule(key="EXPTIME")
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
    gain: PositiveRule | None = Field(
        None, description="electrons per count; without it, it is estimated from the image"
    )
    read_noise: NotNegativeRule = NotNegativeRule(constant=0.0)
    saturation: PositiveRule | None = None
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

    def band_of(self, header: Source) -> tuple[str, str]:
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
                f"{Cards.of(header).name}: filter {physical!r} maps to {band!r}, which is none of {''.join(BANDS)}: add it to band_map of "
                f"instrument {self.name}"
            )
        return band, physical

    def packer(self) -> IdPacker:
        """Return the id layout of this camera; numbers of the longer visit rule fit where the file sets no other bound."""
        longer = self.visit_rule == "yyyymmddsssss" and "n_visits" not in self.ids.model_fields_set
        return (self.ids.model_copy(update={"n_visits": _LONG_VISITS}) if longer else self.ids).packer()

    @model_validator(mode="after")
    def _ids_fit(self) -> Self:
        """Refuse ids that overflow when the file is read, not at the first frame that needs them."""
        try:
            self.packer()
        except CallerError as error:
            raise ValueError(f"ids: {error.message}") from None
        return self

    def __repr__(self) -> str:
        scale = "scale of the WCS" if self.pixel_scale is None else f"{self.pixel_scale:g} arcsec/px"
        return f"<Instrument {self.name}: {scale}, variance {self.variance}, zero point {self.zeropoint}>"

    __str__ = __repr__


def visit_from_mjd(mjd_tai: float, rule: str = "yymmddsssss") -> int:
    """Return the visit number for a mid-exposure (TAI): date, then seconds of the day, for example 17122005623."""
    from astropy.time import Time

    moment: datetime = Time(mjd_tai, format="mjd", scale="tai").to_datetime().replace(tzinfo=UTC)
    seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
    day = moment.strftime("%y%m%d" if rule.startswith("yymm") else "%Y%m%d")
    return int(f"{day}{seconds:05d}")


def _folders() -> list[Path]:
    """Return where names are looked for, the user's directories first."""
    extra = [Path(p) for p in os.environ.get("ALERTPROD_INSTRUMENTS", "").split(os.pathsep) if p]
    return [*extra, Path(str(files("exposure") / "instruments"))]


def instrument_files() -> dict[str, Path]:
    """Return the instrument files that names find, by name."""
    files: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.yaml")):
            files.setdefault(path.stem, path)
    return files


def _candidates(name: str) -> list[Path]:
    return [Path(name)] if name.endswith((".yaml", ".yml")) else [d / f"{name}.yaml" for d in _folders()]


def find_instrument(name: str) -> Instrument | None:
    """Return the instrument of a name, None where no file has it (a path is no name)."""
    is_name = bool(name) and not name.endswith((".yaml", ".yml")) and "/" not in name
    return load_instrument(name) if is_name and any(p.is_file() for p in _candidates(name)) else None


def load_instrument(name: str) -> Instrument:
    """Load an instrument by name (user directories in ALERTPROD_INSTRUMENTS first) or by the path of its file.

    Raises
    ------
    InstrumentError
        No such file, or a file that breaks the rules; the message lists every problem.
    """
    path = next((p for p in _candidates(name) if p.is_file()), None)
    if path is None:
        tried = ", ".join(str(p) for p in _candidates(name))
        raise InstrumentError(f"no instrument file for {name!r} (tried {tried})")
    state = path.stat()
    return _load(path.resolve(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=32)
def _load(path: Path, changed_ns: int, size: int) -> Instrument:
    """Read a file again when it has changed."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Instrument.model_validate(raw, context={"folder": path.parent})
    except UnicodeDecodeError as error:
        raise InstrumentError(f"instrument file {path} is no text in UTF-8: {error}; save it as such") from error
    except OSError as error:
        raise InstrumentError(f"instrument file {path} cannot be read: {error.strerror or error}") from error
    except (ValidationError, yaml.YAMLError) as error:
        raise InstrumentError(f"instrument file {path} is wrong: {error}") from error
