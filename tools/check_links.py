"""What is broken in the built documentation: ``python -m tools.check_links DIRECTORY``.

Links that lead nowhere (what is elsewhere is not asked), and markup that was not understood and stands in the text.
"""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

__all__ = ["broken_links", "main", "raw_markup"]

_LINK = re.compile(r'(?:href|src)="([^"]+)"')
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_VERBATIM = re.compile(r"<(pre|code|script|style|math|svg|head)\b.*?</\1>", re.DOTALL)
# a row of a table, a link, a fence, something bold, a name; none of them stands in text that was understood
_RAW = re.compile(r"^\s*\||\|\s*$|\]\([^)\s]+\)|```|\*\*\w[^*\n]*\*\*|`", re.MULTILINE)
_INDEX = "genindex.html"  # of Sphinx, which puts pipes between letters
_TEMPLATES = "_static"  # the theme's own files, some of which are templates


@cache
def _anchors(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\bid="([^"]+)"', path.read_text(encoding="utf-8")))


def broken_links(root: Path) -> list[tuple[str, str]]:
    """Return (page, link) of links to files or anchors that are not there."""
    out = []
    for page in _pages(root):
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


def raw_markup(page: str) -> list[str]:
    """Return what stands in the text of a page as it was written: pipes of a table, links, fences, marks of names."""
    text = re.sub(r"<[^>]+>", "\n", _VERBATIM.sub("x", page))
    return list(dict.fromkeys(m.group().strip() for m in _RAW.finditer(text)))


def _pages(root: Path) -> list[Path]:
    return [p for p in sorted(root.rglob("*.html")) if _TEMPLATES not in p.relative_to(root).parts]


def main() -> None:
    """Print what is broken; the status says whether anything is."""
    root = Path(sys.argv[1]).resolve()
    wrong = [f"{page}: {link} leads nowhere" for page, link in broken_links(root)]
    for page in _pages(root):
        if page.name == _INDEX:
            continue
        found = raw_markup(page.read_text(encoding="utf-8"))
        wrong += [f"{page.relative_to(root)}: {text!r} stands in the text" for text in found]
    print("\n".join(wrong), end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
