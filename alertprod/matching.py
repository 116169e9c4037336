"""Sources of one list that are those of another."""

from typing import TYPE_CHECKING, Any

import numpy as np

from alertprod.errors import InputType
from alertprod.positions import Places, places_of
from tasks.errors import CallerError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["match"]

_ERRORS = ("raErr", "decErr")


def match(sources_a: Any, sources_b: Any, radius: Any = 1.0) -> "pd.DataFrame":
    """Pair the sources of two lists on the sky, each with one of the other at most.

    Of all pairs within the radius those are taken whose sum of scores is least (not first come, first served). The
    score is the separation; where both are tables with position errors ``raErr`` and ``decErr`` (degrees on the sky), it
    is the likelihood of the offset.

    Parameters
    ----------
    sources_a, sources_b
        Positions on the sky as for `alertprod.photometry`, or a `Difference` for its sources. Rows without a position
        have no pair.
    radius
        Largest separation, arcsec or a Quantity.

    Returns
    -------
    pairs : `pandas.DataFrame`
        ``a``, ``b``: row numbers from 0 in the two lists; ``separation`` in arcsec; in order of ``a``.

    Raises
    ------
    InputType
        One of the lists is of no kind that has sky positions.
    CallerError
        The radius is not positive and finite, or a position is not on the sky.

    Examples
    --------
    >>> pairs = match([(10.0, 0.0), (20.0, 0.0)], [(20.0, 0.0001), (30.0, 0.0)])
    >>> pairs.round(2).to_dict("records")
    [{'a': 1, 'b': 0, 'separation': 0.36}]
    """
    import pandas as pd

    from association.matching import associate
    from tasks.sphere import chord_arcsec, unit_vectors

    limit = _arcsec(radius)
    frames = (_frame(sources_a, "diaSourceId"), _frame(sources_b, "diaObjectId"))
    partners = associate(frames[0], frames[1], radius_arcsec=limit).diaSources.diaObjectId.to_numpy(np.int64)
    a = np.flatnonzero(partners)
    b = partners[a] - 1
    here, there = (unit_vectors(f.ra.to_numpy()[k], f.dec.to_numpy()[k]) for f, k in zip(frames, (a, b), strict=True))
    apart = chord_arcsec(np.linalg.norm(here - there, axis=1)) if a.size else np.zeros(0)
    return pd.DataFrame({"a": a, "b": b, "separation": apart})


def _arcsec(radius: Any) -> float:
    if hasattr(radius, "to_value"):
        from astropy.units import UnitConversionError

        try:
            radius = radius.to_value("arcsec")
        except UnitConversionError as error:
            raise InputType(f"radius must be an angle; got {radius}") from error
    if isinstance(radius, bool) or not isinstance(radius, int | float | np.number):
        raise InputType(f"radius must be a number of arcsec or a Quantity; got {type(radius).__name__}")
    if not (np.isfinite(radius) and radius > 0):
        raise CallerError(f"radius must be positive and finite, got {radius}")
    return float(radius)


def _frame(sources: Any, id_name: str) -> "pd.DataFrame":
    """Return ids from 1, ra and dec, and position errors where there are any."""
    import pandas as pd

    from alertprod.difference import Difference

    sources = sources.sources if isinstance(sources, Difference) else sources
    places: Places = places_of(sources, pixel=False)
    frame = pd.DataFrame(
        {id_name: np.arange(1, len(places) + 1, dtype=np.int64), "ra": places.first % 360, "dec": places.second}
    )
    for name in _ERRORS:
        if name in _columns(sources):
            frame[name] = np.ma.filled(np.ma.asarray(sources[name], np.float64), np.nan)
    return frame


def _columns(sources: Any) -> list[str]:
    names = getattr(sources, "colnames", getattr(sources, "columns", ()))
    return [str(name) for name in names]
