"""One thing that was looked at, and how it is."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State", "good", "skipped", "warning", "wrong"]

State = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Parameters
    ----------
    about
        What was looked at.
    state
        ``wrong``: the service, or a part of it, will not work; ``warning``: it works, and something should be done.
    text
        What was found.
    advice
        What to do; empty where nothing is to be done.
    """

    about: str
    state: State
    text: str
    advice: str = ""


def good(about: str, text: str) -> Finding:
    """Return a finding with which nothing is wrong."""
    return Finding(about, "ok", text)


def skipped(about: str, text: str) -> Finding:
    """Return a finding of what was not looked at."""
    return Finding(about, "skipped", text)


def warning(about: str, text: str, advice: str) -> Finding:
    """Return a finding that should be seen to."""
    return Finding(about, "warning", text, advice)


def wrong(about: str, text: str, advice: str) -> Finding:
    """Return a finding that must be mended."""
    return Finding(about, "wrong", text, advice)
