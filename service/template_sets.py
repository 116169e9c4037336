"""Template sets as people see them: which there are, which are used, what they cover; promoted, rolled back."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffim import TemplateStore
    from diffim.templates.store import TemplateSet

__all__ = ["coverage", "described_sets"]


def described_sets(store: "TemplateStore", name: str | None = None, band: str | None = None) -> list[dict[str, Any]]:
    """Return name, version, band, numbers of tiles and inputs, area, and whether it is used, of every version of every set."""
    sets = [s for s in store.list() if name in (None, s.name) and band in (None, s.manifest["band"])]
    used = {key: store.get(*key).version for key in {(s.name, s.manifest["band"]) for s in sets}}
    return [_described(s, used[s.name, s.manifest["band"]]) for s in sets]


def _described(one: "TemplateSet", used: int) -> dict[str, Any]:
    return {
        "name": one.name,
        "version": one.version,
        "band": one.manifest["band"],
        "tiles": len(one.manifest["tiles"]),
        "inputs": len(one.manifest["inputs"]),
        "areaSqDeg": round(one.area_sq_deg(), 6),
        "used": one.version == used,
    }


def coverage(
    store: "TemplateStore", name: str, band: str | None = None, version: int | None = None, limit: int = 10_000
) -> dict[str, Any]:
    """Return what a version covers: its description, and the inner areas of its tiles (degrees), at most so many.

    Raises
    ------
    NoTemplate
        There is none.
    """
    one = store.get(name, band, version)
    used = store.get(name, one.manifest["band"]).version
    bounds = one.tile_bounds()
    tiles = [
        {"name": tile, "raMin": ra0, "raMax": ra1, "decMin": dec0, "decMax": dec1}
        for tile, (ra0, ra1, dec0, dec1) in sorted(bounds.items())[:limit]
    ]
    return {**_described(one, used), "coverage": tiles}
