"""Where the products lie that the service keeps beside the database."""

from pathlib import Path

__all__ = ["difference_path"]


def difference_path(directory: Path, visit: int, detector: int, attempt: int) -> Path:
    """Return where the difference image of an attempt lies."""
    return directory / f"difference_{visit}_{detector}_{attempt}.fits"
