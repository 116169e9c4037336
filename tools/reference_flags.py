"""Every list of bits and flags: which is which, what each bit says."""

from tools.markdown import code, table

__all__ = ["flags_page"]

_PLANE_WORDS = {
    "BAD": "a bad pixel of the detector", "SAT": "saturated", "INTRP": "its value was interpolated", "CR": "a cosmic ray",
    "EDGE": "at the edge: the convolution reached over it", "DETECTED": "in the footprint of a positive detection",
    "DETECTED_NEGATIVE": "in the footprint of a negative detection", "SUSPECT": "its value is doubted",
    "NO_DATA": "has no value", "NOT_DEBLENDED": "in a blend that was not taken apart", "STREAK": "on a streak (satellite, aircraft)",
    "INJECTED": "an injected source reaches there", "INJECTED_CORE": "the core of an injected source",
    "INJECTED_TEMPLATE": "INJECTED of the template", "INJECTED_CORE_TEMPLATE": "INJECTED_CORE of the template",
    "HIGH_VARIANCE": "its variance is far above that of its surroundings", "SAT_TEMPLATE": "saturated in the template",
    "SPIKE": "on a diffraction spike of a bright star", "FAKE": "an injected source, by its older name",
    "INEXACT_PSF": "frames of the template are missing there, its PSF is not exact",
}  # fmt: skip


def flags_page() -> str:
    """The three sums called `flags`, pixel flags of sources, planes of masks."""
    from exposure.mask import PIXEL_FLAGS, PLANES
    from service.pairs.source_columns import FLAG_BITS as TABLE_BITS
    from tasks.lacking import FLAG_BITS, FLAG_WORDS, LACKING_BITS

    lacking = " + ".join(str(1 << b) for b in FLAG_BITS.values() if LACKING_BITS >> b & 1)
    in_table = (
        (bit, bit.bit_length() - 1, words, ", ".join(map(code, names))) for bit, (names, words) in TABLE_BITS.items()
    )
    forced = ((b, 1 << b, 1 << b + 16, code(name), FLAG_WORDS[name]) for name, b in FLAG_BITS.items())
    pixel = ((code(f"pixelFlags_{name}"), code(plane), _PLANE_WORDS[plane]) for name, plane in PIXEL_FLAGS.items())
    return "\n".join((
        "# Flags\n\nThree columns are called `flags`, with two lists of bits:\n\n"
        "| where | bits |\n| --- | --- |\n"
        "| tables of `alertprod diff --sources`, and of `alertprod.subtract` (Python) | [of detections](#flags-of-detections) |\n"
        "| `alertprod.photometry` (Python) | [of a forced flux](#flags-of-forced-fluxes), one half |\n"
        "| the side table `DiaForcedSourceFlags` of the database | [of a forced flux](#flags-of-forced-fluxes), two halves |\n",
        "Alert packets and DiaSource have single columns instead ([tables](tables.md#diasource)).\n",
        "## Flags of detections\n\nA sum; 0 is clean.\n",
        table(("value", "bit", "what it says", "columns of which one is set"), in_table),
        "## Flags of forced fluxes\n\nOf `alertprod.photometry` the first column of values. `DiaForcedSourceFlags` holds one row for each DiaForcedSource "
        "(diaObjectId, visit, detector, flags): the low 16 bits are of the flux on the difference (`psfFlux`), the high 16 bits of that on the science image "
        "(`scienceFlux`). 2097216 is 2^21 + 2^6: a cosmic ray on the science image (bit 21 = 16 + 5), and a fit on the difference that lacks data (bit 6).\n",
        table(("bit", "difference", "science image", "name", "what it says"), forced),
        f"Where the difference has one of {lacking} (edge, noGoodPixels, no_data) its flux lacks light: it stays in the database, is left out of all "
        "means, and is null in alert packets. [Forced photometry](../../association.md#forced-photometry) says how the shares are counted.\n",
        "## Pixel flags of detections\n\nColumns of DiaSource (those that the schema has) and of the tables of `alertprod diff`: set where a pixel of the footprint has the plane; with `Center` behind "
        "the name one of the 3 x 3 around the centroid, with `CenterAll` all of them (tables of `alertprod diff` alone).\n",
        table(("column", "plane of the mask", "the pixel is"), pixel),
        "## Planes of masks\n\nBits of the mask planes that are written (FITS cards `MP_NAME`).\n",
        table(("bit", "plane", "the pixel is"), ((b, code(n), _PLANE_WORDS[n]) for n, b in PLANES.items())),
    ))  # fmt: skip
