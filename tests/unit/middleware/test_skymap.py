"""Tiles of a template set as patches, blocks of them as tracts."""

import numpy as np
import pytest
from lsst.sphgeom import LonLat, UnitVector3d

from diffim.templates.skymap import SkyMap
from diffim.templates.tiling import SkyTiling

TILING = SkyTiling(1.0, 256, 32)


def tiles(dec: float, n: int = 400):
    """Return tiles around a declination, on both sides of right ascension 0."""
    rng = np.random.default_rng(1)
    ra, decs = (rng.uniform(-2, 2, n)) % 360, np.clip(dec + rng.uniform(-2, 2, n), -89.99, 89.99)
    return TILING.overlapping(ra, decs)


@pytest.mark.parametrize("dec", [-89.0, -30.0, 0.0, 62.0, 89.5])
def test_every_tile_has_a_place_of_its_own_in_a_tract_that_holds_it(dec):
    sky = SkyMap(TILING)
    places: dict[tuple[int, int], str] = {}
    for tile in tiles(dec):
        place = sky.place(tile)
        key = (place.tract, sky.patch(place))
        assert places.setdefault(key, tile.name) == tile.name
        assert 0 <= place.row < sky.rows and 0 <= place.column < sky.columns and place.tract < sky.tract_max
        region = sky.tract_region(place.tract)
        for corner in sky.patch_region(tile).getVertices():
            assert region.contains(UnitVector3d(corner))
        middle = tile.wcs.pixel_to_sky(np.array([tile.size / 2]), np.array([tile.size / 2]))
        assert sky.patch_region(tile).contains(UnitVector3d(LonLat.fromDegrees(*(float(v[0]) for v in middle))))
    assert len({tract for tract, _ in places}) < len(places) / 10  # blocks of tiles, not rings of them


def test_every_position_is_of_one_patch():
    sky = SkyMap(TILING)
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(-1, 1, 300) % 360, rng.uniform(30, 31, 300)
    places = {(p.tract, sky.patch(p)) for p in map(sky.place, TILING.overlapping(ra, dec))}
    owners = np.array([sky.owned(ra, dec, *place) for place in places])
    assert (owners.sum(axis=0) == 1).all()
    assert sky.owned(ra[:0], dec[:0], 1, 1).shape == (0,)


def test_the_name_of_a_sky_map_says_its_tiling():
    sky = SkyMap(SkyTiling(4.987654321, 512, 64))
    assert SkyMap.named(sky.name) == sky and len(sky.name) <= 64
    assert SkyMap.named("lsst_cells_v1") is None and len(sky.digest) <= 40
    assert SkyMap(TILING).digest != sky.digest
