"""Which version of a template set is used, and what it covers: over HTTP and by commands. Sets of manifests alone."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from diffim import NoTemplate, TemplateStore
from diffim.errors import TemplateSetError
from diffim.templates.tiling import SkyTiling
from service.commands.main import app
from tests.support.asking import NOWHERE, asker

TILING = SkyTiling(0.36, 512, 64)
RA, DEC = 150.0, 2.0


def make(root, version, band="r", name="deep", positions=((RA, DEC),)):
    tiles = sorted({t.name for ra, dec in positions for t in TILING.overlapping(np.array([ra]), np.array([dec]))})
    folder = root / name / f"v{version:03d}"
    folder.mkdir(parents=True)
    manifest = {"name": name, "version": version, "band": band, "unit": "nJy", "tiles": tiles,
                "tiling": {"pixel_scale": 0.36, "inner": 512, "border": 64}, "inputs": [{"visit": 1, "detector": 1}]}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def root(tmp_path):
    for version, band in ((1, "r"), (2, "g"), (3, "r")):
        make(tmp_path / "templates", version, band)
    return tmp_path / "templates"


def test_the_newest_is_used_until_one_is_promoted_and_then_that_one(root):
    store = TemplateStore(root)
    used = lambda band: store.get("deep", band).version  # noqa: E731
    assert (used("r"), used("g")) == (3, 2)
    with pytest.raises(NoTemplate, match="nothing to go back to"):
        store.roll_back("deep", "r", "me")
    store.promote("deep", 1, "me")
    assert (used("r"), used("g")) == (1, 2)
    make(root, 4)
    assert used("r") == 1  # a new one does not push in
    store.promote("deep", 4, "you")
    store.promote("deep", 4, "you")  # again: nothing
    assert used("r") == 4
    assert [store.roll_back("deep", "r", "me").version for _ in range(2)] == [1, 3]
    with pytest.raises(NoTemplate):
        store.roll_back("deep", "r", "me")
    record = json.loads((root / "deep" / "choice.json").read_text())["r"]["record"]
    assert [(r["by"], r["action"], r["version"]) for r in record] == [
        ("me", "promote", 1), ("you", "promote", 4), ("me", "roll back", 1), ("me", "roll back", 3),
    ]  # fmt: skip
    assert store.get("deep", "r", version=1).version == 1
    for wrong in (("deep", 9), ("other", 1)):
        with pytest.raises(NoTemplate):
            store.promote(*wrong, "me")
    (root / "deep" / "choice.json").write_text("{")
    with pytest.raises(TemplateSetError, match=r"choice\.json"):
        store.get("deep", "r")


def test_coverage_is_that_of_the_tiles(root):
    """Areas by the solid angle of what lies between two parallels; positions inside and outside."""
    rng = np.random.default_rng(1)
    places = list(zip(RA + rng.uniform(-0.3, 0.3, 40), DEC + rng.uniform(-0.3, 0.3, 40), strict=True))
    make(root, 5, positions=places)
    one = TemplateStore(root).get("deep", version=5)
    bounds = one.tile_bounds()
    expected = sum(
        (ra1 - ra0) * (np.sin(np.radians(dec1)) - np.sin(np.radians(dec0))) * 180 / np.pi
        for ra0, ra1, dec0, dec1 in bounds.values()
    )
    assert one.area_sq_deg() == pytest.approx(expected, rel=1e-9)
    assert one.area_sq_deg() == pytest.approx(len(bounds) * (512 * 0.36 / 3600) ** 2, rel=0.02)
    assert all(one.covers(ra, dec) for ra, dec in places)
    for ra, dec in places[:10]:
        assert sum(a <= ra < b and c <= dec < d for a, b, c, d in bounds.values()) == 1
    assert not one.covers(RA + 1.0, DEC)


def test_over_http(root):
    ask = asker(root.parent / "uploads", template_dir=root)[0]
    sets = ask("GET", "/v1/templates").json()["templates"]
    assert [(s["version"], s["band"], s["used"]) for s in sets] == [(1, "r", False), (2, "g", True), (3, "r", True)]
    there = ask("GET", "/v1/templates", params={"ra": RA, "dec": DEC, "band": "r"}).json()["templates"]
    assert [s["version"] for s in there] == [1, 3]
    assert ask("GET", "/v1/templates", params={"ra": RA + 2, "dec": DEC}).json()["templates"] == []
    promoted = ask("POST", "/v1/templates/deep/versions/1/promote")
    assert (promoted.status_code, promoted.json()["used"]) == (200, True)
    covered = ask("GET", "/v1/templates/deep/coverage", params={"band": "r"}).json()
    assert covered["version"] == 1
    tile = covered["coverage"][0]
    assert tile["raMin"] <= RA < tile["raMax"]
    assert tile["decMin"] <= DEC < tile["decMax"]
    assert ask("POST", "/v1/templates/deep/roll-back", params={"band": "r"}).json()["version"] == 3
    for method, path, status in (
        ("GET", "/v1/templates/other/coverage", 422), ("POST", "/v1/templates/deep/versions/9/promote", 422),
        ("POST", "/v1/templates/deep/roll-back", 422), ("POST", "/v1/templates/..%2Fdeep/versions/1/promote", 404),
        ("GET", "/v1/templates/.hidden/coverage", 422),
    ):  # fmt: skip
        assert ask(method, path).status_code == status, path


def test_by_commands(root):
    env = {"ALERTPROD_TEMPLATE_DIR": str(root), "ALERTPROD_DATABASE_URI": NOWHERE}

    def run(*arguments):
        return CliRunner().invoke(app, ["template", *arguments], env=env)

    assert [s["used"] for s in json.loads(run("list", "--json").stdout)] == [False, True, True]
    assert run("promote", "deep", "1").stdout == "deep v1 is used for band r\n"
    assert json.loads(run("coverage", "deep", "--band", "r", "--json").stdout)["version"] == 1
    assert "square degrees" in run("list").stdout
    assert run("roll-back", "deep", "--band", "r").stdout == "deep v3 is used for band r\n"
    assert run("roll-back", "deep", "--band", "r").exit_code == 1
