"""The bands that the columns of objects have."""

__all__ = ["BANDS"]

BANDS = ("u", "g", "r", "i", "z", "y")
