"""The house: every room says what it is, imports point down, every task keeps its published methods."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("tasks", "exposure", "diffim", "forced", "association", "alerts", "apdb", "calibration", "middleware", "service",
         "simulation", "migrations")  # fmt: skip
PUBLISHED = {
    "diffim.ImageDifferenceTask": "applyOverrides checkTemplateIsSufficient emptyMetadata getAllSchemaCatalogs "
    "getFullMetadata getFullName getName getResourceConfig getSchemaCatalogs getTaskDict makeField makeIdFactory "
    "fitAstrometry makeSubtask parseAndRun prepareCalibratedExposure run runDataRef runDebug runQuantum timer "
    "writeConfig writeMetadata writePackageVersions writeSchemas",
    "association.DiaPipelineTask": "emptyMetadata getAllSchemaCatalogs getFullMetadata getFullName getName "
    "getResourceConfig getSchemaCatalogs getTaskDict makeField makeSubtask run runQuantum timer",
    "forced.ForcedPhotCcdFromDataFrameTask": "applyOverrides attachFootprints df2RefCat df2SourceCat emptyMetadata "
    "fetchReferences generateMeasCat getAllSchemaCatalogs getExposure getExposureId getFullMetadata getFullName getName "
    "getResourceConfig getSchemaCatalogs getTaskDict makeField makeIdFactory makeSubtask mergeAndFilterReferences "
    "parseAndRun prepareCalibratedExposure run runDataRef runQuantum timer writeConfig writeMetadata writeOutput "
    "writePackageVersions writeSchemas",
    "calibration.JointcalTask": "applyOverrides emptyMetadata getAllSchemaCatalogs getFullMetadata getFullName getName "
    "getResourceConfig getSchemaCatalogs getTaskDict loadData makeField makeSubtask parseAndRun run runDataRef "
    "runQuantum timer writeConfig writeMetadata writePackageVersions writeSchemas",
    "calibration.UpdateVisitSummaryTask": "emptyMetadata getFullMetadata getFullName getName getResourceConfig "
    "getTaskDict makeField makeSubtask run runQuantum timer",
}


def rooms_imported(room: str) -> set[str]:
    """Return the other rooms that modules of a room import, anywhere in their code."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    return (found & {*ROOMS, "simulation"}) - {room}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_imports_what_it_says(room):
    text = " ".join((importlib.import_module(room).__doc__ or "").split())
    duty, said, imports = text.partition("Imports: ")
    assert duty
    assert said
    told = re.sub(r"\([^)]*\)", "", imports).split(". ")[0]
    names = set(re.findall(r"``(\w+)``", told))
    if "every other room" in told:
        names = {*ROOMS, "simulation"} - names - {room}
    imported = rooms_imported(room)
    assert imported == names or not any((ROOT / room).rglob("[!_]*.py"))  # a room to come has no modules yet


def test_imports_point_down():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", PUBLISHED)
def test_tasks_keep_their_published_methods(name):
    module, cls = name.split(".")
    task = getattr(importlib.import_module(module), cls)
    missing = [m for m in PUBLISHED[name].split() if not callable(getattr(task, m, None))]
    assert missing == []
    assert task.canMultiprocess is True


def test_the_api_process_loads_no_pixel_code():
    names = ("cv2", "diffim", "calibration", "association", "numba", "pandas", "astropy")
    code = f"import sys, service.api.app, service.workers.supervisor; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stdout


def test_only_the_middleware_opens_a_butler():
    """The roles of the service load none of it (the import contract), and no other room makes one."""
    makes = re.compile(
        r"\bButler\s*\(|Butler\.(from_config|makeRepo)|\bRegistry\.|(?:from|import) lsst\.daf\.butler\.registry"
    )
    found = [
        path.relative_to(ROOT).as_posix()
        for room in (*ROOMS, "alertprod")
        for path in (ROOT / room).rglob("*.py")
        if makes.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["middleware/repository.py"]
