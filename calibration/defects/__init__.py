"""Pixels that lie: maps of bad ones, tracks of cosmic rays, and values in their place."""
