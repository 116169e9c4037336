"""All images of a file, each subtracted from its partner: what goes wrong with one is said, and the others are done."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from exposure import Instrument
from exposure.io.several import ImageName, images_in, partner_of
from service.checksums import checksum
from service.errors import NoPartner
from service.failures import debugging, typed
from service.pairs.diff_outputs import DiffOutputs, check_all
from service.pairs.difference import Difference
from service.terminal import quiet

__all__ = ["subtract_all"]

Subtract = Callable[..., Difference]


def subtract_all(
    science: Path, template: Path, rules: Instrument, subtract: Subtract, outputs: DiffOutputs
) -> Iterator[dict[str, Any]]:
    """Subtract every image of a file from its partner in the other, and write what is wanted of it.

    Parameters
    ----------
    subtract
        Makes the difference of two paths; `checksums` are given to it.
    outputs
        Of an only image; of several each has its name in the names.

    Yields
    ------
    report : `dict`
        What one subtraction says, with ``image`` and ``template`` (names behind the paths), ``output``, ``sources`` and
        ``score`` (paths); ``error`` (code, message) where it failed.

    Raises
    ------
    FitsUnreadable
        One of the files cannot be read, or the path names one image already.
    OutputError
        An output cannot be written.
    """
    with quiet():
        own, others = images_in(science, rules), images_in(template, rules)
        targets = [outputs] if len(own) == 1 else [outputs.named(image.label) for image in own]
        check_all((science, template), targets)
        sums = checksum(science), checksum(template)
    for image, target in zip(own, targets, strict=True):
        with quiet():
            report = _one(science, template, image, partner_of(image, own, others), subtract, sums, target, others)
        yield report


def _one(
    science: Path,
    template: Path,
    image: ImageName,
    partner: ImageName | None,
    subtract: Subtract,
    sums: tuple[str, str],
    target: DiffOutputs,
    others: list[ImageName],
) -> dict[str, Any]:
    """Return the report of one image, or what went wrong with it."""
    said: dict[str, Any] = {"image": image.label, "template": None if partner is None else partner.label}
    try:
        if partner is None:
            raise NoPartner(
                f"{template.name} holds {', '.join(o.label for o in others)}: none, or more than one, is the partner of "
                f"{image.of(science.name)}"
            )
        difference = subtract(image.of(science), partner.of(template), checksums=sums)
        target.write(difference)
    except Exception as error:  # whatever is wrong with one image, the others are subtracted
        if isinstance(error, MemoryError):
            raise
        if debugging():
            import traceback

            traceback.print_exception(error)
        told = typed(error)
        return {**said, "error": {"code": told.code, "message": " ".join(str(told).split())}}
    return {**said, **target.names(), **difference.report}
