"""A stand-in for a butler's quantum context: no butler is needed to see what a task takes and gives."""

from types import SimpleNamespace
from typing import Any

__all__ = ["Quantum"]


class Quantum:
    """Hands out the inputs that it was made with, by name; keeps what is put, by reference."""

    def __init__(self, tract: int | None = None, **inputs: Any) -> None:
        self.quantum, self.inputs = SimpleNamespace(dataId={"tract": tract}), inputs
        self.kept: dict[Any, Any] = {}

    def get(self, refs: Any) -> dict[str, Any]:
        """Return all inputs."""
        return self.inputs

    def put(self, value: Any, ref: Any) -> None:
        """Keep an output."""
        self.kept[ref] = value
