"""What to do about each error, from its page of the documentation, for the pages of the service: ``python tools/remedies.py``."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "service" / "pages" / "remedies.json"
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def remedies() -> dict[str, str]:
    """Return what to do by code: the items of the list of that name, as plain text."""
    out = {}
    for path in sorted((ROOT / "docs" / "errors").glob("*.md")):
        if path.stem == "README":
            continue
        _, _, text = path.read_text(encoding="utf-8").partition("What to do")
        items = re.findall(r"^- (.*(?:\n {2,}\S.*)*)", text, re.MULTILINE) or [text.strip(": \n")]
        plain = [" ".join(_LINK.sub(r"\1", item).replace("`", "").split()) for item in items]
        out[path.stem] = " · ".join(item.rstrip(".") for item in plain)
    return out


def written() -> str:
    """Return the text of the file that the pages read."""
    return json.dumps(remedies(), indent=0, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    KEPT.write_text(written(), encoding="utf-8")
