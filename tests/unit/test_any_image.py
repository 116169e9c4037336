"""Any FITS image: encodings x headers x planes x compression, each from its file to a table of sources, judged by truth.

Every combination is either right (all transients within 1 px, fluxes within 3 %, no other reliable source, what is missing
marked) or a typed error. The images are the same noise in other clothes: fluxes scatter by 0.9 % at most by themselves.
"""

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest

from exposure import load_instrument
from exposure.fits import read_planes
from service.diff import difference_pair, subtract_sky
from tasks.errors import AlertProdError
from tests import any_image as made

RULES = load_instrument("generic")
FLUX_ERROR = 0.03
EDGE = 6  # px that resampling may lose
FAST = {"kernelSize": 15, "spatialKernelOrder": 0}


@pytest.fixture(scope="module")
def field():
    return made.scene()


@pytest.fixture(scope="module")
def template(field, tmp_path_factory):
    """The old image, read once, with its variance: only the new ones differ."""
    path = tmp_path_factory.mktemp("template") / "old.fits"
    path.write_bytes(made.content(made.float32(field.old, made.tan())))
    old = read_planes(path, RULES)
    old.band = "r"
    subtract_sky(old, RULES)
    return old


def combinations():
    """Every header with two thirds of the encodings; planes and compressions go round beside them."""
    for h, header in enumerate(made.HEADERS):
        for e, encoding in enumerate(made.ENCODINGS):
            if (h + e) % 3 == 0:
                continue
            yield header, encoding, made.PLANES[(5 * h + e) % len(made.PLANES)], made.WAYS[(h + 2 * e) % len(made.WAYS)]


def write(folder, field, header, encoding, planes, way):
    image = (field.bent if header in made.BENT else field.new).copy()
    value, where = getattr(planes, "pixels", (0.0, None))
    if where is not None:
        image[where] = value
    hdus = encoding(image, header())
    planes(hdus, image)
    path = folder / f"new{way[0]}"
    path.write_bytes(way[1](made.content(hdus)))
    return path


def judge(path, template, header, planes):
    """Return "right", the code of a typed error, or what is wrong."""
    try:
        new = read_planes(path, RULES)
        new.band = "r"
        registered = header is made.no_sky
        result = difference_pair(new, deepcopy(template), RULES, registered=registered, sources=True, options=FAST)
    except AlertProdError as error:
        return f"{error.code}: {error}" if error.code == "internal" else error.code
    truth = made.bent_positions(made.TRANSIENTS) if header in made.BENT else made.TRANSIENTS
    found = result.sources
    distance = np.hypot(*(found[c].to_numpy()[:, None] - truth[:, k] for k, c in enumerate("xy")))
    if not len(found) or (distance.min(0) > 1).any():
        return "wrong: a transient is missing"
    flux = found.psfInstFlux.to_numpy()[distance.argmin(0)]
    if (np.abs(flux / truth[:, 2] - 1) > FLUX_ERROR).any():
        return f"wrong: fluxes {flux / truth[:, 2]}"
    if (found.reliability > 0.5).sum() > len(truth):
        return "wrong: a false source"
    return _judge_missing(result.exposure, planes)


def _judge_missing(difference, planes):
    where = getattr(planes, "pixels", (0, made.BLOCK))[1]
    if planes in (made.nothing, made.variance):
        where = np.zeros(difference.image.shape, bool)
    empty = difference.flagged("NO_DATA")
    if not empty[where].all() or np.isfinite(difference.image[empty]).any():
        return "wrong: missing pixels have values"
    empty[where] = False
    return "right" if empty[EDGE:-EDGE, EDGE:-EDGE].mean() < 0.01 else "wrong: pixels with data are lost"


def test_every_combination_is_right_or_a_typed_error(field, template, tmp_path, capsys):
    outcomes, wrong = Counter(), []
    for header, encoding, planes, way in combinations():
        path = write(tmp_path, field, header, encoding, planes, way)
        outcome = judge(path, template, header, planes)
        path.unlink()
        outcomes[outcome.partition(":")[0]] += 1
        if outcome != "right":
            wrong.append((header.__name__, encoding.__name__, planes.__name__, way[0], outcome))
    with capsys.disabled():
        print(f"\n{sum(outcomes.values())} combinations: {dict(outcomes)}")
    assert not [w for w in wrong if w[-1].startswith(("wrong", "internal"))]
    assert sum(outcomes.values()) >= 300
    assert outcomes["right"] >= 0.7 * sum(outcomes.values())
