"""Pixels that say nothing: missing, filled, odd lines, bad."""
