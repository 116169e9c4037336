"""The child process that reads a map of the sky that somebody sent: ``python -m service.pages.survey.map_process FILE``.

It has limits of memory and processor time, as every process that opens foreign files. On standard output: a NumPy archive of the
columns, or a line that says what is wrong.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from service.subprocesses.limits import OutOfTime, contain, cpu_limited
from tasks.errors import AlertProdError

__all__ = ["CPU_S", "WRONG", "main"]

CPU_S, MEMORY = 10.0, 2 << 30
WRONG = 3  # exit status: the file is not understood


def _columns(path: Path) -> dict[str, Any]:
    """Return the numbers UNIQ of a map's cells, shape (N,), ``unique``, and of a sky map their probability, 1/sr, ``density``."""
    from exposure.io.opening import open_fits

    with open_fits(path) as hdus:
        table = next((h for h in hdus if getattr(h, "columns", None) is not None), None)
        if table is None:
            raise ValueError("it holds no table")
        names = {n.upper(): n for n in table.columns.names}
        if "UNIQ" not in names and str(table.header.get("ORDERING", "")).upper() != "NUNIQ":
            raise ValueError("it has no column UNIQ: a MOC or a multi-order sky map is expected")
        columns: dict[str, Any] = {
            "unique": np.array(table.data[names.get("UNIQ") or table.columns.names[0]], np.int64)
        }
        if "PROBDENSITY" in names:
            columns["density"] = np.array(table.data[names["PROBDENSITY"]], np.float64)
    return columns


def main() -> None:
    """Read the file."""
    contain(MEMORY, 0)
    try:
        with cpu_limited(CPU_S):
            columns = _columns(Path(sys.argv[1]))
    except OutOfTime:
        said = f"it takes more than {CPU_S:.0f} s of processor time"
    except MemoryError:
        said = "it needs more memory than it may"
    except AlertProdError as error:
        said = str(error)
    except Exception as error:  # what libraries raise on broken files is their own affair
        said = f"{type(error).__name__}: {error}"
    else:
        np.savez(sys.stdout.buffer, **columns)
        return
    print(said[:300])
    sys.exit(WRONG)


if __name__ == "__main__":
    main()
