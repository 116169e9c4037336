"""The documentation: it builds without a warning, its marked snippets run, what it links to and names is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exposure import load_instrument
from tools.reference import metrics_page, settings_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BIN = Path(sys.executable).parent
MARKED = re.compile(r"<!-- run -->\n```(\w+)\n(.*?)```", re.DOTALL)


def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    program = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pages = {p.relative_to(tmp_path).with_suffix("").as_posix() for p in tmp_path.rglob("*.html")}
    sources = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md") if "_build" not in p.parts}
    assert sources <= pages
    wanted = [r"https?://[^\"'\s]+\.(?:js|css|woff2?)", r"@import url\(.?http"]
    fetched = [p.name for p in tmp_path.rglob("*.html") if any(re.search(w, p.read_text()) for w in wanted)]
    assert [
        name for name in fetched if name not in MATHS
    ] == []  # nothing is fetched from elsewhere but formulas' fonts


MATHS = {"formulas.html"}


def test_what_is_marked_in_the_tutorial_runs(tmp_path):
    blocks = MARKED.findall((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    assert [kind for kind, _ in blocks] == ["python", "bash", "bash", "python"]
    here = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    programs = {"python": [sys.executable, "-P", "-c"], "bash": ["bash", "-euo", "pipefail", "-c"]}
    said = []
    for kind, text in blocks:
        done = subprocess.run(
            [*programs[kind], text], cwd=tmp_path, env=here, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, (text, done.stderr)
        said.append(done.stdout)
    assert "the frame can be used" in said[1]
    assert (tmp_path / "pictures" / "sources.png").exists()
    reliable = [float(line.split()[-1]) for line in said[3].splitlines()[1:]]
    assert max(reliable) > 0.9  # a variable star, as the text says
    assert min(reliable) < 0.1  # a cosmic ray


def test_nothing_is_misspelt():
    pytest.importorskip("codespell_lib", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [BIN / "codespell", "docs", "README.md", "CONTRIBUTING.md", "client/README.md"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    targets = re.findall(r"\]\(([^)#]+)", text)
    assert "docs/pictures/demo.png" in targets
    assert [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()] == []


def test_the_instrument_file_of_the_guide_is_understood(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "howto" / "camera.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mycam.yaml").write_text(text, encoding="utf-8")
    rules = load_instrument(str(tmp_path / "mycam.yaml"))
    assert (rules.name, rules.zeropoint, rules.band_map) == ("mycam", "relative", {"Clear": "r"})


def test_alarms_and_settings_that_guides_name_exist():
    metrics, settings = metrics_page(), settings_page()
    named = re.findall(r"`(alertprod_\w+)", (DOCS / "howto" / "recover.md").read_text(encoding="utf-8"))
    assert len(named) > 8
    assert [n for n in named if f"`{n}`" not in metrics] == []
    pages = (
        *(DOCS / "howto").glob("*.md"),
        DOCS / "tutorial.md",
        DOCS / "client.md",
        DOCS / "questions.md",
        ROOT / "README.md",
    )
    variables = {v for p in pages for v in re.findall(r"ALERTPROD_[A-Z_]+[A-Z]", p.read_text(encoding="utf-8"))}
    elsewhere = {"ALERTPROD_INSTRUMENTS", "ALERTPROD_DATABASE_URI_FILE"}
    assert [v for v in sorted(variables - elsewhere) if f"`{v}`" not in settings] == []
