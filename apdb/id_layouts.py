"""The layouts of ids in a database, by instrument: ids of two cameras, or of two layouts of one, must not meet.

An id holds release, visit, detector and counter in fields whose widths come from the instrument file. Where all instruments
of a database have the same widths, equal ids are of one visit and detector, which the ledger takes once. With other widths
any two visits may get the same ids.
"""

import json
from typing import Any

import psycopg

from apdb.errors import IdLayoutConflict, VisitConflict

__all__ = ["KEY", "claim_layout", "layouts", "note_instrument", "refuse_other_camera"]

KEY = "ids:"  # of the metadata; the name of the instrument follows
_FIELDS = ("n_visits", "n_detectors", "n_releases")
_LOCK = 7005


def layouts(connection: psycopg.Connection[Any]) -> dict[str, tuple[int, ...]]:
    """Return numbers of visits, detectors and releases by instrument."""
    rows = connection.execute("SELECT name, value FROM metadata WHERE starts_with(name, %s)", (KEY,)).fetchall()
    return {name.removeprefix(KEY): tuple(json.loads(value)[f] for f in _FIELDS) for name, value in rows}


def claim_layout(connection: psycopg.Connection[Any], instrument: str, sizes: tuple[int, int, int]) -> None:
    """Enter an instrument's layout, or compare it with what is entered.

    Parameters
    ----------
    sizes
        Upper bounds of visits, detectors and releases, as its file has them.

    Raises
    ------
    IdLayoutConflict
        The database has another layout of this instrument, or of another one; nothing was changed.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        held = layouts(connection)
        for name, other in sorted(held.items(), key=lambda item: item[0] != instrument):
            if other != sizes:
                raise IdLayoutConflict(_text(instrument, sizes, name, other))
        if instrument not in held:
            value = json.dumps(dict(zip(_FIELDS, sizes, strict=True)))
            connection.execute("INSERT INTO metadata (name, value) VALUES (%s, %s)", (KEY + instrument, value))


def note_instrument(connection: psycopg.Connection[Any], visit: int, detector: int, instrument: str) -> None:
    """Note, within the caller's transaction, of which instrument a (visit, detector) is that it has stored."""
    query = 'UPDATE "StoreLedger" SET instrument = %s WHERE visit = %s AND detector = %s'
    connection.execute(query, (instrument, visit, detector))


def refuse_other_camera(connection: psycopg.Connection[Any], visit: int, detector: int, instrument: str) -> None:
    """Refuse to take the place of a (visit, detector) that another instrument has stored; what is noted of none is anybody's.

    Raises
    ------
    VisitConflict
        It is another one's; nothing was changed.
    """
    row = connection.execute(
        # a message may name a file by its path, which says nothing of the camera
        "SELECT coalesce(s.instrument, CASE WHEN strpos(l.instrument, '/') = 0 THEN l.instrument END) FROM \"StoreLedger\" s LEFT JOIN "
        '"VisitLedger" l USING (visit, detector) WHERE s.visit = %s AND s.detector = %s ORDER BY 1 LIMIT 1',
        (visit, detector),
    ).fetchone()
    if row is not None and row[0] is not None and row[0].lower() != instrument.lower():
        raise VisitConflict(
            f"this (visit, detector) is stored, of instrument {row[0]}, not {instrument}: give the visits of one camera other "
            "numbers, or withdraw this one first",
            visit=visit,
            detector=detector,
        )


def _text(instrument: str, sizes: tuple[int, ...], name: str, other: tuple[int, ...]) -> str:
    def listed(values: tuple[int, ...]) -> str:
        return ", ".join(f"{f} {v}" for f, v in zip(_FIELDS, values, strict=True))

    if name == instrument:
        return (
            f"instrument {instrument} has ids of {listed(sizes)}, and its rows in this database have {listed(other)}: later "
            "visits would get the ids of earlier ones. Set ids in the instrument file as they were, or use another database"
        )
    return (
        f"instrument {instrument} has ids of {listed(sizes)}, and instrument {name} of this database has {listed(other)}: "
        "their ids could meet. Give both files the same ids, large enough for both, or each instrument its database"
    )
