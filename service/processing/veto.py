"""ALERTPROD_ALERT_VETO, and the quality gate of the subtraction where it is set to veto: which visits keep their alerts until somebody has looked at them."""

from typing import Any

import numpy as np

__all__ = ["veto_reason"]


def veto_reason(limits: dict[str, float], metrics: dict[str, Any], problem: str = "") -> str | None:
    """Return why the alerts of a visit are held, None when they are not.

    A metric that has a limit and was not measured holds them too: nobody knows that the subtraction is good.

    Parameters
    ----------
    limits
        Largest values by the name of a metric or count.
    metrics
        What was measured and counted.
    problem
        What the gate of the subtraction found, where it is set to hold alerts.
    """
    reasons = [problem] if problem else []
    for name, limit in sorted(limits.items()):
        value = metrics.get(name)
        if not isinstance(value, int | float) or not np.isfinite(value):
            reasons.append(f"{name} was not measured")
        elif value > limit:
            reasons.append(f"{name} is {value:g}, more than {limit:g}")
    return "; ".join(reasons) or None
