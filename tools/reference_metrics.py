"""The metrics of the reference: those of ``GET /metrics``, and the numbers of a visit."""

from tools.markdown import code, table

__all__ = ["COUNTS", "metrics_page"]

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
        + _of_visits()
    )


def _of_visits() -> str:
    from service.pages.visits.meanings import MEANINGS

    told = ((code(name), unit, words) for name, (unit, words) in sorted(MEANINGS.items()))
    return (
        "\n## Numbers of a visit\n\n`alertprod visits show`, `GET /v1/visits/VISIT/DETECTOR` (`counts`), the dashboard, and the names that "
        "`ALERTPROD_ALERT_VETO` ([held alerts](../../operations.md#held-alerts)) may have.\n\n"
        "### Counts\n\n"
        + table(("name", "what it counts"), ((code(n), w) for n, w in COUNTS.items()))
        + "\n### Quality metrics\n\nStored with the visit (`VisitQuality`), where they could be measured. [The quality gate](../../differencing.md#the-quality-gate) has "
        "limits of some.\n\n" + table(("name", "unit", "what it tells"), told)
    )
