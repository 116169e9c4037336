"""What fixed images become: differences, calibrations, templates, forced fluxes, files of `alertprod diff`."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.table import Table

from benchmarks.fingerprints.hashing import Fingerprints, metadata_numbers, moved
from benchmarks.fingerprints.inputs import MJD, RULES, SIDE, image, plain, star_table, tan
from exposure import Exposure
from tasks import IdFactory, IdGenerator, IdPacker, make_task

__all__ = ["characterization", "difference", "forced", "pair", "sources", "templates"]

VOLATILE_CARDS = ("DATE", "CHECKSUM", "DATASUM", "VERSION", "SOFTWARE", "CREATOR", "ORIGIN", "PROGRAM")


def difference(out: Fingerprints, **config: Any) -> Any:
    """Differences of one pair: the template convolved, the image convolved, ZOGY; with detection and measurement."""
    from diffim import ImageDifferenceTask

    cases: dict[str, tuple[float, float, dict[str, Any]]] = {
        "template": (2.2, 1.8, {"mode": "convolveTemplate"}),
        "science": (1.7, 2.1, {"mode": "convolveScience"}),
        "auto": (1.9, 1.9, {"mode": "auto", "doWriteScore": True, "doSpatialMetrics": True}),
        "zogy": (2.0, 1.9, {"subtractAlgorithm": "ZOGY", "doDecorrelation": False}),
    }
    for case, (sigma, template_sigma, values) in cases.items():
        new, old = image(sigma, 1, changed=True), image(template_sigma, 2, pad=40, noise=3.0)
        task = make_task(ImageDifferenceTask, values | config)
        result = task.run(new, star_table(), old, idFactory=IdGenerator(IdPacker(1 << 20, 64), 71, 3))
        name = f"difference.{case}"
        out.add(f"{name}.exposure", result.subtractedExposure)
        out.add(f"{name}.science", new)
        out.add(f"{name}.matched", result.matchedExposure.image)
        out.add(f"{name}.score", result.scoreExposure)
        out.add(f"{name}.diaSources", result.diaSources)
        out.add(f"{name}.spatialMetrics", result.spatiallySampledMetrics)
        out.add(f"{name}.metadata", metadata_numbers(task.metadata))
        kernel = getattr(result.subtractRes, "kernel", None)
        if kernel is not None and hasattr(kernel, "coefficients"):
            out.add(f"{name}.kernel", {"coefficients": kernel.coefficients, "background": kernel.background})
        if case == "template":
            again = task.runWithKernel(image(sigma, 1, changed=True), old, result.subtractRes, star_table())
            out.add(f"{name}.again", again.subtractedExposure.image)
            kept = result
    return kept


def characterization(out: Fingerprints) -> None:
    """What a plain image lacks: variance, sky, sources, PSF; also with smoothing of an undersampled one."""
    from calibration.characterize import characterize

    smoothed = RULES.model_copy(update={"characterize": RULES.characterize.model_copy(update={"smoothing": 0.8})})
    for case, sigma, rules in (("plain", 1.9, RULES), ("undersampled", 0.8, smoothed)):
        result = characterize(plain(21, sigma), rules)
        out.add(f"characterize.{case}.exposure", result.exposure)
        out.add(f"characterize.{case}.sources", result.sources)
        out.add(f"characterize.{case}.report", result.report)


def templates(out: Fingerprints) -> None:
    """A coadd of characterised frames, the template of an image out of its tiles, and one out of patches."""
    from calibration.characterize import characterize
    from diffim import TemplateStore, build_template

    merge_patches = moved("merge_patches", "diffim.templates.patches", "diffim.patches")
    frames = [characterize(plain(seed, sigma), RULES).exposure for seed, sigma in ((31, 1.8), (32, 2.0), (33, 1.9))]
    science = image(2.0, 1)
    science.wcs = tan(161.3, 158.8, angle=20.0, scale=0.4)
    with tempfile.TemporaryDirectory() as folder:
        chosen = build_template(folder, "t", frames, pixel_scale=0.4, tile=256)
        for path in sorted(chosen.path.glob("*.fits")):
            with fits.open(path) as hdus:
                for k, hdu in enumerate(hdus):
                    if isinstance(hdu, fits.ImageHDU | fits.CompImageHDU):
                        out.add(f"template.{path.stem}.{k}", np.asarray(hdu.data))
        out.add("template.stars", pd.read_parquet(chosen.path / "stars.parquet"))
        out.add("template.fetched", TemplateStore(folder).fetch(chosen, science))
    patches = []
    for k in range(4):
        patch = image(1.8, 40 + k)
        corner = (260 * (k % 2) - 280, 260 * (k // 2) - 280)
        patch.origin, patch.wcs = corner, tan(0.0, 0.0, angle=4.0, scale=0.21)
        patches.append(patch)
    science.wcs = tan(160.0, 160.0)
    out.add("patches.merged", merge_patches(science, patches))


def forced(out: Fingerprints, e: Exposure | None = None) -> None:
    """Forced photometry of positions, with every plug-in that can be switched on."""
    from forced import ForcedPhotCcdFromDataFrameTask

    rng = np.random.default_rng(8)
    e = e or image(2.0, 1, changed=True)
    x, y = rng.uniform(-3, SIDE + 3, (2, 150))
    ra, dec = e.require_wcs().pixel_to_sky(x, y)
    objects = pd.DataFrame({"diaObjectId": np.arange(1, 151), "ra": ra, "dec": dec})
    for case, config in (("default", {}), ("correlated", {"doCorrelatedNoise": True})):
        task = make_task(ForcedPhotCcdFromDataFrameTask, config)
        reference = task.df2RefCat([objects], e.bbox, e.require_wcs())
        catalog = task.generateMeasCat(IdFactory(7, 20), e, reference)[0]
        out.add(f"forced.{case}", task.run(task.attachFootprints(catalog, reference, e), e, reference).measCat)


def sources(out: Fingerprints) -> pd.DataFrame:
    """The DiaSource rows of a difference, and the alerts of them."""
    from association import filter_new_sources, standardize

    inner = Fingerprints()
    result = difference(inner)
    rows = standardize(result.diaSources, result.subtractedExposure, MJD)
    out.add("standardize", rows)
    split = filter_new_sources(rows)
    out.add("newSources", {"good": split.good, "marginal": split.marginal})
    return rows


def pair(out: Fingerprints) -> None:
    """`alertprod.subtract` and `alertprod diff` of two plain images: arrays, tables, files."""
    import alertprod

    new, old = plain(51, 1.7, changed=True), plain(52, 1.9)
    result = alertprod.subtract(new.copy(), old.copy(), score=True)
    out.add("pair.exposure", result.exposure)
    out.add("pair.score", result.score)
    out.add("pair.sources", result.sources)
    out.add("pair.report", {k: v for k, v in result.report.items() if isinstance(v, float | int | str)})
    positions = pd.DataFrame({"x": [20.5, 100.0, 310.2], "y": [30.0, 160.4, 15.0]})
    out.add("pair.photometry", alertprod.photometry(result, positions))
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, e in (("new", new), ("old", old)):
            paths.append(str(Path(folder) / f"{name}.fits"))
            header = e.require_wcs().to_header()
            header["MJD-OBS"], header["EXPTIME"] = MJD, 30.0
            fits.PrimaryHDU(e.image, header).writeto(paths[-1])
        target, table = Path(folder) / "d.fits", Path(folder) / "s.csv"
        module = moved("main", "service.commands.main", "service.cli").__module__
        subprocess.run(
            [sys.executable, "-P", "-m", module, "diff", *paths, "--output", str(target), "--sources", str(table)],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": str(Path(alertprod.__file__).parents[1])},
        )
        out.add("command.sources", table.read_bytes())
        with fits.open(target) as hdus:
            for k, hdu in enumerate(hdus):
                out.add(f"command.difference.{k}.header", _cards(hdu.header))
                if hdu.data is not None:
                    data = hdu.data
                    out.add(f"command.difference.{k}.data", Table(data) if data.dtype.names else np.asarray(data))


def _cards(header: fits.Header) -> list[str]:
    """Return the cards of a header but those of dates, sums, versions and paths."""
    cards = [(k, v) for k, v in header.items() if not any(word in k for word in VOLATILE_CARDS)]
    return [f"{k}={v!r}" for k, v in cards if "/" not in str(v) and k not in ("HISTORY", "COMMENT")]
