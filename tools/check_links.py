"""Links of the built documentation that lead nowhere: ``python -m tools.check_links DIRECTORY``; what is elsewhere is not asked."""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

__all__ = ["broken_links", "main"]

_LINK = re.compile(r'(?:href|src)="([^"]+)"')
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_TEMPLATES = "_static"  # the theme's own files, some of which are templates


@cache
def _anchors(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8")))


def broken_links(root: Path) -> list[tuple[str, str]]:
    """Return (page, link) of links to files or anchors that are not there."""
    out = []
    for page in sorted(root.rglob("*.html")):
        if _TEMPLATES in page.relative_to(root).parts:
            continue
        for link in dict.fromkeys(_LINK.findall(page.read_text(encoding="utf-8"))):
            if not _ELSEWHERE.match(link) and not _is_there(page, unquote(link.partition("?")[0])):
                out.append((str(page.relative_to(root)), link))
    return out


def _is_there(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return False
    return not anchor or target.suffix != ".html" or anchor in _anchors(target)


def main() -> None:
    """Print what leads nowhere; the status says whether anything does."""
    broken = broken_links(Path(sys.argv[1]).resolve())
    for page, link in broken:
        print(f"{page}: {link} leads nowhere")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
