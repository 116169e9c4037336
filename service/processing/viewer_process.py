"""The child process that makes what people look at: pictures of a visit, a place followed through it. One JSON line each way."""

import json
import logging
import os
import sys
from base64 import b64encode
from collections import OrderedDict
from typing import Any

from lsst.pipe.base import NoWorkFound

from service.processing.look_at import Looked, look_at, picture_of, place_of
from service.settings import Settings
from service.subprocesses.limits import contain
from tasks.errors import AlertProdError, NoWork

__all__ = ["Viewer", "main"]

KEPT = 2  # visits in memory
_GIB = 1 << 30


class Viewer:
    """Answers questions; keeps the visits that were looked at last."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: OrderedDict[str, Looked] = OrderedDict()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return what was asked for, or the error that prevents it."""
        try:
            return self._answer(question)
        except (NoWork, NoWorkFound) as error:
            return {"error": {"code": "no_work", "message": str(error), "retriable": False}}
        except AlertProdError as error:
            return {"error": error.as_dict()}
        except MemoryError:
            return {"error": {"code": "out_of_memory", "message": "the visit needs too much memory", "retriable": True}}
        except Exception as error:
            logging.getLogger("alertprod.viewer").exception("%s", question.get("what"))
            text = f"{type(error).__name__}: {str(error)[:300]}"
            return {"error": {"code": "internal", "message": text, "retriable": False}}

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if question["what"] == "numbers":
            return {"numbers": self._looked(question).numbers}
        if question["what"] == "picture":
            box = question.get("box")
            looked = self._looked(question)
            png = picture_of(
                looked, question["which"], question["stretch"], question["span"], None if box is None else tuple(box)
            )
            return {"png": b64encode(png).decode("ascii"), "numbers": looked.numbers}
        seen: Looked | None = None
        refused = ""
        try:
            seen = self._looked(question)
        except (AlertProdError, NoWorkFound) as error:
            refused = str(error)
            if "ra" not in question["place"]:
                raise
        answer = place_of(
            self._settings, seen, question["visit"], question["detector"], question["place"], question["radius"]
        )
        return {**answer, "noPictures": refused}

    def _looked(self, question: dict[str, Any]) -> Looked:
        key = json.dumps([question["visit"], question["detector"], question["attempt"]])
        looked = self._kept.pop(key, None) or look_at(self._settings, question["message"])
        self._kept[key] = looked
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return looked


def main() -> None:
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w")  # whatever prints to stdout by mistake must not break the protocol
    os.dup2(2, 1)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    settings = Settings()
    # it ends with its standard input; the thread that started it may end before
    contain(int(settings.job_memory_gb * _GIB), int(settings.job_file_gb * _GIB), with_parent=False)
    viewer = Viewer(settings)
    print(json.dumps({"ready": os.getpid()}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(viewer.answer(json.loads(line)), default=str), file=out, flush=True)


if __name__ == "__main__":
    main()
