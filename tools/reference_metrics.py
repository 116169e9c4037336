"""The metrics of the reference: those of ``GET /metrics``, and the numbers of a visit."""

import re
from pathlib import Path
from typing import Any

import yaml

from tools.markdown import code, table

__all__ = ["COUNTS", "FIELDS", "STEP_WORDS", "metrics_page"]

_RULES = Path(__file__).parents[1] / "helm" / "alertprod" / "files" / "alerts.yaml"

COUNTS = {
    "diaSources": "detections stored",
    "newObjects": "objects made of detections that belong to no known one",
    "updatedObjects": "known objects that got a detection",
    "marginal": "detections without object that a flag or the reliability keeps from founding one: not stored",
    "solarSystem": "detections of known solar-system bodies",
    "forced": "forced fluxes stored",
    "alerts": "alerts made",
    "rejected": "detections thrown away by a flag or for their reliability",
    "trailed": "detections taken out as long trails",
    "unconfirmed": "detections stored without an alert, as their object has too few (`alertLeastDiaSources`)",
}
_SERIES = re.compile(r" of \{\{[^}]*\}\}")  # what Prometheus fills in
# counted where it happened, beside those that every visit has
_SOMETIMES = {
    "withdrawn": "rows of an earlier processing that were taken back (`reprocess: replace`)",
    "held": "alerts that wait for a person ([held alerts](../../operations.md#held-alerts))",
}
STEP_WORDS = {
    "open": "the image is read and checked",
    "template": "the tiles of the template are read and brought onto the pixels of the image",
    "characterize": "what a plain image lacks is measured: variance, sky, stars, PSF, zero point",
    "difference": "subtraction, detection, measurement, reliability",
    "standardize": "measurements become rows of the database; what a flag or its reliability forbids is thrown away",
    "lock": "waiting for the patch of sky, which another visit may hold",
    "take back": "rows of an earlier processing are withdrawn (`reprocess: replace` alone)",
    "ephemerides": "places of known solar-system bodies",
    "associate": "history, objects, statistics, forced photometry",
    "alerts": "packets are made and the alert file is written",
    "products": "the difference image and fluxes at given positions are written (`ALERTPROD_PRODUCTS_DIR`)",
    "commit": "all rows become valid at once",
}
FIELDS = {
    "visit, detector": "its key",
    "state": "one of [eight](../../operations.md#states-of-a-visit)",
    "attempt": "number of attempts so far; a later one fences earlier ones off",
    "priority": "as in its message",
    "instrument": "name of its instrument file",
    "band": "u g r i z y; null until the header was read, where the message does not say it",
    "midpointMjdTai": "middle of the exposure, MJD (TAI); null likewise",
    "release": "release slot: 0 for the first processing, one more with each replacement",
    "traceId": "by which its lines in the logs are found",
    "counts": "counts, below; null before it ended",
    "seconds": "seconds by step, below",
    "error": "`code`, `message` and `help` (path of the page of the code), of the last failure; null where there is none",
    "waitUntil": "until when its image may be late, where it is `waiting`",
    "createdAt, updatedAt, finishedAt": "when it came, changed last, ended; UTC",
}


class _AnyStatus:
    """Stands for the numbers of a service: the names of what is told of them do not depend on their values."""

    def __getitem__(self, name: object) -> "_AnyStatus":
        return self

    def items(self) -> list[tuple[str, int]]:
        return []

    def __float__(self) -> float:
        return 0.0


def metrics_page() -> str:
    """Every metric of ``GET /metrics``."""
    from service.observe.ledger_measures import _Status
    from service.observe.measures import MEASURES

    kinds = {"counter": "_total", "histogram": "_bucket, _sum, _count", "summary": "_sum, _count"}
    families = [(f, f.name, f.documentation, f.type) for f in _Status(_AnyStatus()).collect()]  # type: ignore[arg-type]
    own = [c for c in MEASURES._collector_to_names if hasattr(c, "_labelnames")]  # not those of the process
    families += [(c, c._name, c._documentation, c._type) for c in own]  # type: ignore[attr-defined]
    rows = [("`alertprod_up`", "gauge", "", "1 when the database answers.")]
    for holder, name, words, kind in families:
        labels = ", ".join(code(n) for n in getattr(holder, "_labelnames", ()))
        rows.append((code(name), f"{kind} ({kinds[kind]})" if kind in kinds else kind, labels, words))
    return (
        "# Metrics\n\n`GET /metrics` of the API with the scope `read`, and of every role on `ALERTPROD_METRICS_PORT`, in the format of Prometheus. "
        "[Operations](../../operations.md) says which role has which.\n\n"
        + table(("metric", "type", "labels", "what it is"), rows)
        + _alarms()
        + _of_visits()
    )


def _alarms() -> str:
    groups: list[dict[str, Any]] = yaml.safe_load(_RULES.read_text(encoding="utf-8"))["groups"]
    rows = (
        (f"[{r['alert']}](../../runbooks/{r['alert']}.md)", r["labels"]["severity"], code(r["expr"]), r["for"], _SERIES.sub("", r["annotations"]["summary"]))
        for group in groups for r in group["rules"]
    )  # fmt: skip
    return (
        "\n## Alarms\n\nThe rules of `helm/alertprod/files/alerts.yaml`; each leads to its [runbook](../../runbooks/README.md).\n\n"
        + table(("alarm", "severity", "when", "for", "says"), rows)
    )


def _of_visits() -> str:
    from service.pages.visits.meanings import MEANINGS

    told = ((code(name), unit, words) for name, (unit, words) in sorted(MEANINGS.items()))
    return (
        "\n## Numbers of a visit\n\nWhat `alertprod visits show` and `GET /v1/visits/VISIT/DETECTOR` say of a ccdVisit. Counts and quality metrics are "
        "also the names that `ALERTPROD_ALERT_VETO` ([held alerts](../../operations.md#held-alerts)) may have.\n\n"
        "### Fields\n\n"
        + table(("field", "what it is"), ((", ".join(map(code, n.split(", "))), w) for n, w in FIELDS.items()))
        + "\n### Steps\n\nNames in `seconds`, in `alertprod_step_seconds{step}` and in the waterfall of the dashboard, in this order.\n\n"
        + table(("step", "what is done"), ((code(n), w) for n, w in STEP_WORDS.items()))
        + "\n### Counts\n\n"
        + table(("name", "what it counts"), ((code(n), w) for n, w in COUNTS.items()))
        + "\nAlso, where it happened: "
        + "; ".join(f"{code(n)}: {w}" for n, w in _SOMETIMES.items())
        + ".\n"
        + "\n### Quality metrics\n\nStored with the visit (`VisitQuality`), where they could be measured. [The quality gate](../../differencing.md#the-quality-gate) has "
        "limits of some. A metric without a unit is a number, a share, a factor, or has it in its name.\n\n"
        + table(("name", "unit", "what it tells"), told)
    )
