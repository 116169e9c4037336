"""Every key of an instrument file: what it is, what it may be, its default."""

import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tools.markdown import code, table

__all__ = ["WORDS", "instrument_page", "keys"]

_RULE = "rule of a header card"
_HEAD = ("key", "what it is", "type", "default")

WORDS = {
    "name": "of the instrument: at most 64 letters, digits, `_`, `.`, `-`; it stands in messages, and in the database",
    "pixel_scale": "arcsec per pixel of its templates; without it, that of the first frame's WCS",
    "planes": "which HDU (number or name) holds which plane",
    "planes.image": "the image. A number that is written counts where that HDU holds an image (`image: 0`: the primary HDU); else, and without the key, the only image that is no companion of another",
    "planes.mask": "the mask, an integer image",
    "planes.variance": "variances; the service and `alertprod night` use them with `variance: plane` alone (below), `alertprod diff` wherever the file has them",
    "planes.weight": "inverse variances, of which variances are made; `variance: plane` as for `planes.variance`",
    "planes.sigma": "standard deviations, of which variances are made; `variance: plane` as for `planes.variance`",
    "planes.psf": "the PSF: one stamp, or a cube of them; without it the PSF is measured",
    "mask_bits": "name of a plane to its bit in the mask HDU; cards `MP_NAME` of the mask need none of it",
    "bad_edge": "rows and columns at each edge that are no good",
    "bad_pixels": "map or list of regions that are bad on any frame ([how](../../instruments.md#bad-pixels))",
    "bad_pixels_from": "written by the program: the file that they come from, where it is not this one",
    "exposure_time": f"{_RULE}: seconds, above 0, at most 864000",
    "midpoint": f"{_RULE}, and how its time is read ([times](../../instruments.md#times))",
    "detector": f"{_RULE}: number of the detector, 0 to 32767",
    "visit": f"{_RULE}: visit number, 0 to 2^53 - 1; without it the number comes from the middle of the exposure (`visit_rule`)",
    "visit_rule": "visit numbers that are made of the middle of the exposure, in TAI: date and seconds of the day",
    "band": f"{_RULE}: name of the filter",
    "band_map": "name of a filter to one of u g r i z y; a filter that maps to none is refused (band_unknown)",
    "boresight_ra": f"{_RULE}: where the telescope points, right ascension, degrees; kept with the visit",
    "boresight_dec": f"{_RULE}: declination of it, degrees",
    "rotation": f"{_RULE}: rotation angle of the camera, degrees; kept with the visit",
    "airmass": f"{_RULE}: airmass (no unit); kept with the visit",
    "target": f"{_RULE}: name of the target; `target_name` of alert packets",
    "gain": f"{_RULE}: electrons per count, above 0; without it, it is estimated (gain_unknown where it cannot be)",
    "read_noise": f"{_RULE}: electrons, 0 or above",
    "saturation": f"{_RULE}: level in counts, above 0; without it, it is estimated",
    "variance": "`plane`: that of the file, which `planes.variance`, `weight` or `sigma` names (without `plane` it is not used, however it is named), or of the `variance` of a visit message; `gain`: photons and read noise, by the gain; `empirical`: the scatter of the sky, and photons of sources by the gain",
    "variance_file": "what a variance in a file of its own (`variance` of a visit message, used with `variance: plane` alone) holds: variances, inverse variances or standard deviations",
    "zeropoint": "`fixed` and `header`: `zeropoint_value`; `refcat`: fitted to stars of a catalogue; `relative`: to the stars of the template",
    "zeropoint_value": f"{_RULE}: AB magnitude of one count, for `fixed` (its `constant`), `header` (its `key`) and the first template frame of `relative` (its `constant`)",
    "ids": "sizes of the id fields: one layout for a database, kept for ever (id_layout)",
    "ids.n_visits": "above every visit number; with `visit_rule: yyyymmddsssss` 2^41 where it is not given",
    "ids.n_detectors": "above every detector number",
    "ids.n_releases": "release slots of a visit: the first processing and one less replacements (releases_exhausted)",
    "characterize": "numbers of the characterisation that depend on the camera",
    "characterize.background_mesh": "side of the cells of the sky, px, 8 at least",
    "characterize.psf_order": "highest order of the PSF's polynomials over the image",
    "characterize.astrometry": "`header`: the WCS of the header; `relative`: mended by the stars of the template",
    "characterize.systematic_fraction": "part of a pixel's counts that is added in quadrature to its noise, where variances are made here",
    "characterize.smoothing": "sigma in px (3 at most) of a Gaussian that undersampled images are convolved with",
    "task_config": "options of tasks by task ([all of them](tasks.md)): `{DiaPipelineTask: {NAME: VALUE}}`",
}  # fmt: skip
_PARTS = {
    "key": "the header card; `FILENAME`: the name of the file, where no card has that name",
    "constant": "the value; with a `key` too, where the header has no such card",
    "regex": "what of the text counts: its groups joined, without groups the match",
    "factor": "the number is multiplied by it",
    "offset": "and this is added",
    "format": "of the time: `isot`, `mjd`, `jd`, another of astropy's, or a pattern of `strptime`",
    "scale": "time scale; where it is not written TIMESYS counts for cards whose names begin with DATE, MJD, JD, else `utc`; one that contradicts TIMESYS is refused (bad_card)",
    "at": "whether the moment is the start, the middle or the end of the exposure",
    "time_key": "card with the time of the day, for a date that has none",
}  # fmt: skip
_PART_DEFAULTS = {"scale": "that of TIMESYS, else `utc`"}


def keys(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and field of each key, but for the parts of rules and regions, which have tables of their own."""
    for name, field in model.model_fields.items():
        yield f"{before}{name}", field
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, _rule()):
            yield from keys(inner, f"{before}{name}.")


def _rule() -> type[BaseModel]:
    from exposure.header.rules import HeaderRule

    return HeaderRule


def _kind(field: Any) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(code(o) for o in typing.get_args(annotation))
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = [o for o in (typing.get_args(annotation) if union else (annotation,)) if o is not type(None)]
    return " or ".join(dict.fromkeys(map(_named, options)))


def _named(kind: Any) -> str:
    plain = typing.get_origin(kind) or kind
    if plain is dict or (issubclass(plain, BaseModel) and not issubclass(plain, _rule())):
        return "mapping"
    return "rule" if issubclass(plain, _rule()) else {str: "text", int: "whole number", float: "number"}[plain]


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    plain = value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
    return "" if plain in (None, (), {}, "") else code(json.dumps(plain))


def instrument_page() -> str:
    """Every key of an instrument file."""
    from exposure.header.rules import TimeRule
    from exposure.instrument import Instrument

    rows = ((code(name), WORDS[name], _words_of_kind(name, field), _default(field)) for name, field in keys(Instrument))
    parts = (
        (code(name), _PARTS[name], _words_of_kind(name, field), _PART_DEFAULTS.get(name) or _default(field))
        for name, field in TimeRule.model_fields.items()
    )
    return (
        "# Instrument files\n\nEvery key; [instruments](../../instruments.md) tells of them with examples, `alertprod instrument show NAME` prints a file with "
        "all its defaults. Unknown keys are refused. Names in brackets are [error codes](../../errors/README.md).\n\n"
        f"{table(_HEAD, rows)}\n"
        "## Rules of header cards\n\nA `key` or a `constant`. The last four parts are those of `midpoint` alone.\n\n"
        f"{table(('part', *_HEAD[1:]), parts)}"
    )


def _words_of_kind(name: str, field: Any) -> str:
    return {"bad_pixels": "map or list", "constant": "number or text"}.get(name) or _kind(field)
