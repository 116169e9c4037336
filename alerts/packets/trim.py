"""What happens to a packet that is too large for the topic: it is trimmed, never dropped.

The rule, step by step until it fits; the archive keeps the whole packet, and the message says in its header ``trimmed``
what was done:

1. ``crop``: cutouts are cropped to their central 30 x 30 px;
2. ``cutoutTemplate``, ``cutoutScience``, ``cutoutDifference`` become null, in this order;
3. ``prvDiaForcedSources``, then ``prvDiaSources`` lose their oldest half, again and again.
"""

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from alerts.errors import AlertError
from alerts.packets.cutouts import MIN_SIDE
from alerts.packets.schemas import SCHEMA_ID
from alerts.packets.wire import decode_body, encode_body
from exposure.errors import FitsUnreadable
from exposure.io.native import open_fits

__all__ = ["crop_cutout", "trim"]

_STAMPS = ("cutoutTemplate", "cutoutScience", "cutoutDifference")
_HISTORIES = ("prvDiaForcedSources", "prvDiaSources")


def trim(body: bytes, limit: int, schema_id: int = SCHEMA_ID) -> tuple[bytes, str]:
    """Return the Avro bytes of a packet made to fit `limit`, and the names of the steps taken, with commas.

    Raises
    ------
    AlertError
        Not even the bare packet fits.
    """
    packet = decode_body(body, schema_id)
    steps: list[str] = []
    for step in _steps(packet):
        if step not in steps:
            steps.append(step)
        body = encode_body(packet, schema_id)
        if len(body) <= limit:
            return body, ",".join(steps)
    raise AlertError(f"alert {packet['diaSourceId']} has {len(body)} bytes without cutouts and history: limit {limit}")


def _steps(packet: dict[str, Any]) -> Iterator[str]:
    """Do one step after the other, naming each."""
    if any(packet[name] is not None for name in _STAMPS):
        for name in _STAMPS:
            with suppress(FitsUnreadable):  # one that cannot be cropped is left out by the next steps
                packet[name] = None if packet[name] is None else crop_cutout(packet[name], MIN_SIDE)
        yield "crop"
    for name in _STAMPS:
        if packet[name] is not None:
            packet[name] = None
            yield name
    for name in _HISTORIES:
        while packet[name]:
            packet[name] = packet[name][(len(packet[name]) + 1) // 2 :]
            yield name


def crop_cutout(data: bytes, side: int) -> bytes:
    """Return a cutout cropped around its centre; its WCS, corner and PSF still hold."""
    out = io.BytesIO()
    with open_fits(io.BytesIO(data)) as hdus:
        if np.ndim(hdus[0].data) != 2:
            raise FitsUnreadable("a cutout begins with no image")
        width = hdus[0].data.shape[1]
        first = (width - side + 1) // 2
        if first <= 0:
            return data
        for hdu in hdus:
            if hdu.name != "PSFIMAGE":
                hdu.data = hdu.data[first : first + side, first : first + side].copy()
        head = hdus[0].header
        for key, step in (("CRPIX", -first), ("CUTMIN", first)):
            for axis in ("1", "2") if key == "CRPIX" else ("X", "Y"):
                head[f"{key}{axis}"] += step
        hdus.writeto(out)
    return out.getvalue()
