"""Where the rooms are found: beside this package, whatever else of their names lies on the path.

Python looks first into the folder of a script, or into the working directory. A file ``tasks.py`` or a folder ``alerts``
there would be taken for a room.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["ROOMS", "RoomFinder", "claim_rooms"]

ROOMS = frozenset(
    {
        "alerts", "apdb", "association", "calibration", "diffim", "exposure", "forced", "middleware", "service", "simulation",
        "tasks",
    }
)  # fmt: skip
_HOME = Path(__file__).resolve().parent.parent


class RoomFinder:
    """Finds the rooms in their own folder; of other modules it knows nothing."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a room is, None for any other module."""
        return PathFinder.find_spec(name, [str(_HOME)], target) if path is None and name in ROOMS else None


def claim_rooms() -> None:
    """Make the names of the rooms mean the rooms from now on.

    Raises
    ------
    ImportError
        A module of such a name was imported before.
    """
    for name in sorted(ROOMS & sys.modules.keys()):
        where = getattr(sys.modules[name], "__file__", None)
        if where is None or _HOME not in Path(where).resolve().parents:
            raise ImportError(
                f"alertprod has a package {name!r}, and another module of that name is loaded ({where}): rename that one"
            )
    if RoomFinder not in sys.meta_path:
        sys.meta_path.insert(0, RoomFinder)
