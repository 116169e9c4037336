"""Make the pictures of the dashboard in docs/pictures: ``alertprod up --simulate``, then ``python -m tools.dashboard_pictures URL``.

The night as it is, and the object that was detected most often. Chromium (or what ``CHROMIUM`` names) draws them.
"""

import csv
import io
import os
import shutil
import sys
from pathlib import Path

import httpx

__all__ = ["main"]

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
_MOST = 'SELECT TOP 1 "diaObjectId" FROM dia_object_latest ORDER BY "nDiaSources" DESC'


def main(url: str) -> None:
    """Draw both pages of a service."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as drive:
        program = drive.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = program.new_page(base_url=url, viewport={"width": 1280, "height": 1225})
        page.goto("/")
        _keep(page.screenshot(), "night.png")
        page.set_viewport_size({"width": 1120, "height": 1240})
        page.goto(f"/object/{most_detected(url)}")
        page.wait_for_selector("#curve[data-painted]")
        page.wait_for_load_state("networkidle")
        _keep(page.screenshot(), "object.png")
        program.close()


def most_detected(url: str) -> str:
    """Return the id of the object with most detections."""
    query = {"LANG": "ADQL", "FORMAT": "csv", "QUERY": _MOST}
    answer = httpx.get(f"{url}/v1/tap/sync", params=query, timeout=60).raise_for_status()
    return next(csv.DictReader(io.StringIO(answer.text)))["diaObjectId"]


def _keep(png: bytes, name: str) -> None:
    from PIL import Image

    Image.open(io.BytesIO(png)).convert("RGB").save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
