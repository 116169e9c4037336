"""Template sets over HTTP: list, coverage, promote, roll back. Only their manifests are read here, no pixel."""

from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from service.api.resources import Resources, Shared
from service.template_sets import coverage, described_sets

if TYPE_CHECKING:
    from diffim import TemplateStore

__all__ = ["templates"]

templates = APIRouter(tags=["templates"], prefix="/v1/templates")

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,127}$", description="name of the set")]
Version = Annotated[int, Path(ge=1, le=999_999, description="number of the version")]
Band = Annotated[str | None, Query(pattern="^[ugrizy]$", description="of this band only")]
OfVersion = Annotated[int | None, Query(ge=1, le=999_999, description="this version; else that which is used")]
_SET = {"name": "deep", "version": 2, "band": "r", "tiles": 4, "inputs": 12, "areaSqDeg": 0.33, "used": True}


def _json(description: str, example: Any) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {200: {"description": description, "content": content}}


def _store(shared: Resources) -> "TemplateStore":
    from diffim import TemplateStore  # loads what reads images: by the first request

    return TemplateStore(FilePath(shared.settings.template_dir))


@templates.get("", responses=_json("Every version of every set", {"templates": [_SET]}))
def list_sets(
    shared: Shared,
    band: Band = None,
    ra: Annotated[
        float | None,
        Query(ge=0, le=360, allow_inf_nan=False, description="ICRS degrees, with dec: sets that cover this place"),
    ] = None,
    dec: Annotated[float | None, Query(ge=-90, le=90, allow_inf_nan=False, description="ICRS degrees, with ra")] = None,
) -> dict[str, Any]:
    """Template sets, all or those that cover a position, and which version of each is used."""
    store = _store(shared)
    described = described_sets(store, None, band)
    if ra is not None and dec is not None:
        there = {(s.name, s.version) for s in store.list() if s.covers(ra, dec)}
        described = [d for d in described if (d["name"], d["version"]) in there]
    return {"templates": described}


_COVERAGE = {
    **_SET,
    "coverage": [{"name": "tile_00400_00002", "raMin": 10.0, "raMax": 10.3, "decMin": 2.0, "decMax": 2.3}],
}


@templates.get("/{name}/coverage", responses=_json("The version that is used, and its tiles", _COVERAGE))
def show_coverage(name: Name, shared: Shared, band: Band = None, version: OfVersion = None) -> dict[str, Any]:
    """What a set covers: inner areas of its tiles in degrees; of the version that is used, or another."""
    return coverage(_store(shared), name, band, version)


@templates.post("/{name}/versions/{version}/promote", responses=_json("It is used from now on", _SET))
def promote(name: Name, version: Version, request: Request, shared: Shared) -> dict[str, Any]:
    """Let a version be used for its band, whatever newer ones are built."""
    store = _store(shared)
    one = store.promote(name, version, request.state.principal.name)
    return next(d for d in described_sets(store, name, one.manifest["band"]) if d["version"] == version)


@templates.post("/{name}/roll-back", responses=_json("It is used again", _SET))
def roll_back(
    name: Name,
    request: Request,
    shared: Shared,
    band: Annotated[str, Query(pattern="^[ugrizy]$", description="band whose version is set back")],
) -> dict[str, Any]:
    """Let the version be used again that was used before the last promotion."""
    store = _store(shared)
    one = store.roll_back(name, band, request.state.principal.name)
    return next(d for d in described_sets(store, name, band) if d["version"] == one.version)
