"""Histories drawn at random: always the same ones in CI, new ones by a target, whose seed a failure tells."""

import os
import secrets
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, note, seed, settings

__all__ = ["SEED", "drawn", "tell_seed"]

SEED = int(os.environ.get("ALERTPROD_HISTORY_SEED") or "0") or secrets.randbelow(2**32 - 1) + 1


def drawn(examples: int, in_ci: int, **more: Any) -> Callable[[Any], Any]:
    """Return the decorator of a property: up to `in_ci` examples are always the same, more of them follow from `SEED`."""
    chosen = settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples <= in_ci,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    return chosen if examples <= in_ci else lambda test: chosen(seed(SEED)(test))


def tell_seed() -> None:
    """Name the seed where the example fails."""
    note(f"ALERTPROD_HISTORY_SEED={SEED}")
