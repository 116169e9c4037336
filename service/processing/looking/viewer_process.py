"""The child process that makes what people look at: pictures of a visit, a place followed through it. One JSON line each way."""

import json
import logging
import os
import sys
from base64 import b64encode
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lsst.pipe.base import NoWorkFound

from apdb.errors import NotFound
from exposure import Exposure
from exposure.io.writing import write_exposure
from service.errors import BadMessage
from service.processing.covering import places_on, where_it_lies
from service.processing.looking.look_at import Looked, picture_of, place_of
from service.processing.looking.regions import box_of_region
from service.product_files import difference_path
from service.settings import Settings
from service.subprocesses.limits import contain
from tasks.errors import AlertProdError, NoWork

__all__ = ["Viewer", "main"]

KEPT = 2  # visits in memory
MOST_PIXELS = 1_000_000  # of a cutout: 12 MB
NOT_STORED = ("score", "kernel", "stars")  # these are made again where they are asked for
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
            if looked.is_stored and question["which"] in NOT_STORED:
                looked = self._looked(question, again=True)
            png = picture_of(
                looked, question["which"], question["stretch"], question["span"], None if box is None else tuple(box)
            )
            return {"png": b64encode(png).decode("ascii"), "numbers": looked.numbers}
        if question["what"] == "cutout":
            return self._cutout(question)
        if question["what"] == "where":
            images, unread = places_on(self._settings, question["images"], question["ra"], question["dec"])
            return {
                "images": [i.as_dict() for i in images],
                "unread": unread,
                "said": {v: where_it_lies(v, [i for i in images if i.visit == v]) for v in {i.visit for i in images}},
            }
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
        return {**answer, "noPictures": answer["noPictures"] or refused}

    def _looked(self, question: dict[str, Any], *, again: bool = False) -> Looked:
        """Return a visit in memory; its stored difference is used unless it is to be made again."""
        key = json.dumps([question["visit"], question["detector"], question["attempt"], again])
        looked = self._kept.pop(key, None)
        if looked is None:
            looked = Looked(self._settings, question["message"], None if again else self._stored(question))
        self._kept[key] = looked
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return looked

    def _cutout(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return a part of the stored difference as FITS; nothing where it holds no pixel of what is asked for."""
        stored = self._stored(question)
        if stored is None:
            raise NotFound("its difference image is not stored")
        box = box_of_region(stored, question["region"])
        if box is None:
            return {"fits": None}
        if box[2] * box[3] > MOST_PIXELS:
            raise BadMessage(
                f"{box[2]} x {box[3]} pixels are asked for: at most {MOST_PIXELS} are cut out, or the whole file"
            )
        with TemporaryDirectory() as folder:
            path = Path(folder) / "cutout.fits"
            write_exposure(stored.cutout(*box), path)
            return {"fits": b64encode(path.read_bytes()).decode("ascii")}

    def _stored(self, question: dict[str, Any]) -> Exposure | None:
        directory = self._settings.products_dir
        if directory is None:
            return None
        path = difference_path(directory, question["visit"], question["detector"], question["attempt"])
        return Exposure.read_fits(path) if path.exists() else None


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
