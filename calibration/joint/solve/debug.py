"""Files for those who want to see inside a fit: matrix and gradient, residuals of every measurement, start values."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibration.joint.config import JointcalConfig
from calibration.joint.data import Images
from calibration.joint.solve.minimize import Evaluation, star_blocks, sum_blocks
from calibration.joint.solve.problem import Fittable

__all__ = ["Watch"]

log = logging.getLogger("alertprod.jointcal")
LARGEST = 2e8  # elements of a matrix that is still written as text


class Watch:
    """Called by a fit after every stage and round; writes what the configuration asks for.

    Parameters
    ----------
    name
        ``astrometry`` or ``photometry``.
    tag
        ``TRACT_FILTER`` of the file names.
    """

    def __init__(self, config: JointcalConfig, name: str, tag: str, images: Images) -> None:
        self.config, self.name, self.tag, self.images = config, name, tag, images
        self.folder = Path(config.debugOutputPath)

    def __call__(self, label: str, problem: Fittable, evaluation: Evaluation | None) -> None:
        """`label` is ``preinit``, ``postinit``, ``final``, a stage or a round."""
        c = self.config
        if label in ("preinit", "postinit"):
            if c.writeInitMatrix:
                self._matrix(label, problem)
            if label == "preinit" and c.writeInitialModel:
                self._model(problem)
        elif evaluation is not None and self._wanted(label):
            self._residuals(_kind(label), problem, evaluation)

    def _wanted(self, label: str) -> bool:
        if "iteration" in label:
            return bool(self.config.writeChi2FilesOuterLoop)
        return bool(self.config.writeChi2FilesInitialFinal)

    def _path(self, text: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / text

    def _matrix(self, when: str, problem: Fittable) -> None:
        """The normal matrix of the model after elimination of the stars, and its gradient."""
        size = problem.parameters.size
        if size**2 > LARGEST:
            log.warning("writeInitMatrix: %d x %d elements are too many for a text file", size, size)
            return
        sums = sum_blocks(problem, star_blocks(problem), stars=True, matrix=True)
        base = f"{self.name}_{when}-{self.tag}"
        np.savetxt(self._path(f"{base}-mat.txt"), sums.matrix().matrix())
        np.savetxt(self._path(f"{base}-grad.txt"), sums.gradient)

    def _model(self, problem: Fittable) -> None:
        names = [problem.name(i) for i in range(problem.parameters.size)]
        values = dict(zip(names, problem.parameters.tolist(), strict=True))
        text = json.dumps(values, indent=1)
        self._path(f"{self.name}_initial_model-{self.tag}.json").write_text(text, encoding="utf-8")

    def _residuals(self, kind: str, problem: Fittable, evaluation: Evaluation) -> None:
        residual = np.concatenate([problem.light(a, b).rows.residual for a, b in star_blocks(problem, light=True)])
        count = np.bincount(problem.star_index[problem.kept], minlength=problem.offsets.size - 1)
        image, star = problem.image, problem.star_index
        columns: dict[str, tuple[NDArray[Any], str]] = {
            "visit": (self.images.visit[image], "visit"),
            "detector": (self.images.detector[image], "detector"),
            "fsindex": (star, "index of the fitted star"),
            "nm": (count[star], "measurements kept of that star"),
        }
        astrometric = residual.shape[1] == 2
        for k, axis in enumerate("xy" if astrometric else ["flux"]):
            columns[f"r{axis}"] = (residual[:, k], f"residual, {'arcsec' if astrometric else 'model unit'}")
        columns |= {
            "chi2": (evaluation.chi2, "contribution to chi2"),
            "leverage": (evaluation.leverage, "share taken by the star"),
            "kept": (problem.kept.astype(int), "1: used, 0: rejected"),
        }
        base = f"{self.name}_{kind}_chi2-{self.tag}"
        _table(self._path(f"{base}-meas.csv"), columns)
        tied = np.flatnonzero(problem.stars.prior[:, 0, 0] > 0)
        _table(
            self._path(f"{base}-ref.csv"),
            {
                "fsindex": (tied, "index of the fitted star"),
                "nm": (count[tied], "measurements kept of that star"),
                "chi2": (problem.reference_chi2()[tied], "contribution to chi2, in the model's own unit"),
            },
        )


def _kind(label: str) -> str:
    """Return what the files of a stage or round are called."""
    if label == "final":
        return label
    return f"iterate_{label.split()[-1]}" if "iteration" in label else f"init-{label}"


def _table(path: Path, columns: dict[str, tuple[NDArray[Any], str]]) -> None:
    """Write columns tab separated, with two header lines: names and what they are."""
    frame = pd.DataFrame({name: values for name, (values, _) in columns.items()})
    head = "#" + "\t".join(columns) + "\n#" + "\t".join(text for _, text in columns.values()) + "\n"
    path.write_text(head + frame.to_csv(sep="\t", index=False, header=False), encoding="utf-8")
