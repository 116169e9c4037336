"""Alert rules: promtool accepts and tests them, each has its page, and every name they use is one that we give."""

import re
import subprocess
from pathlib import Path

import yaml

from tests.support.programs import program_or_skip

ROOT = Path(__file__).parents[3]
RULES = ROOT / "helm" / "alertprod" / "files" / "alerts.yaml"
PAGES = ROOT / "docs" / "runbooks"
SERIES = Path(__file__).with_name("alert_series.yaml")


def rules():
    return yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]


def promtool(*arguments, cwd=None):
    return subprocess.run(
        [program_or_skip("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


def test_promtool_accepts_the_rules():
    done = promtool("check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_every_rule_fires_when_it_should_and_not_before(tmp_path):
    for path in (RULES, SERIES):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    done = promtool("test", "rules", SERIES.name, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_among_those_that_are_tried():
    tried = yaml.safe_load(SERIES.read_text(encoding="utf-8"))["tests"]
    fires = {a["alertname"] for t in tried for a in t["alert_rule_test"] if a.get("exp_alerts")}
    rests = {a["alertname"] for t in tried for a in t["alert_rule_test"] if not a.get("exp_alerts")}
    assert fires == rests == {rule["alert"] for rule in rules()}


def test_every_alert_has_a_page_and_every_page_an_alert():
    names = {rule["alert"] for rule in rules()}
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == names
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    for rule in rules():
        page = ROOT / rule["annotations"]["runbook_url"]
        parts = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert parts == [f"# {rule['alert']}", "## What it means", "## What to look at", "## What to do"]
        assert f"]({rule['alert']}.md)" in index


def test_links_of_the_pages_lead_somewhere():
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).resolve().exists(), (page.name, target)
