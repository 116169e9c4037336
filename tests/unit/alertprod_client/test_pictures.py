"""Pictures by hand: what another program reads in a GIF is what was drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from alertprod_client.pictures import grey_index, grey_palette, indexed_gif


@pytest.mark.parametrize("shape", [(1, 1), (25, 10), (25, 11), (40, 61)])
def test_a_gif_holds_its_pictures_pixel_by_pixel(shape):
    rng = np.random.default_rng(7)
    good = rng.random(shape) > 0.1
    frames = [grey_index(rng.normal(size=shape), good, signed) for signed in (False, True, False)]
    film = Image.open(io.BytesIO(indexed_gif(frames, grey_palette(), 0.7)))
    assert film.n_frames == 3
    assert film.info["duration"] == 700
    assert film.info["loop"] == 0  # for ever
    for number, frame in enumerate(frames):
        film.seek(number)
        assert np.array_equal(np.asarray(film.convert("RGB")), grey_palette()[frame])
