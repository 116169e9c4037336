"""What is found out about one frame, piece by piece: the value, where it comes from, and what is wrong with it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.errors import AlertProdError

__all__ = ["DOUBTFUL", "MISSING", "Finding", "Findings"]

MISSING, DOUBTFUL = "missing", "doubtful"  # without the one a frame cannot be used; the other may make results wrong


@dataclass(frozen=True)
class Finding:
    """One quantity; `state` is empty where all is well, and `advice` says what to put into the instrument file."""

    what: str
    value: Any
    source: str = ""
    state: str = ""
    note: str = ""
    advice: str = ""


@dataclass
class Findings:
    """All that was found, in order."""

    items: list[Finding] = field(default_factory=list)

    def add(self, what: str, value: Any, source: str = "", doubt: str = "", advice: str = "") -> None:
        """Note a value; with `doubt`, one that may be wrong."""
        self.items.append(Finding(what, value, source, DOUBTFUL if doubt else "", doubt, advice if doubt else ""))

    def lack(self, what: str, note: str, advice: str = "", *, needed: bool = True) -> None:
        """Note something that is not there or cannot be used."""
        self.items.append(Finding(what, None, "", MISSING if needed else DOUBTFUL, note, advice))

    def attempt(self, what: str, read: Callable[[], Any], source: str, advice: str, *, needed: bool = True) -> Any:
        """Note what `read` gives, or the error that it ends with; returns the value, None after an error."""
        try:
            value = read()
        except AlertProdError as error:
            self.lack(what, f"{error.code}: {error}", advice, needed=needed)
            return None
        self.add(what, value, source)
        return value

    def excuse(self, names: Collection[str], note: str) -> None:
        """Let what is missing be doubtful only, with a note, for the quantities named."""
        for k, item in enumerate(self.items):
            if item.state == MISSING and item.what in names:
                self.items[k] = replace(item, state=DOUBTFUL, note=f"{item.note}; {note}", advice="")

    @property
    def usable(self) -> bool:
        """Whether nothing is missing that is needed."""
        return all(item.state != MISSING for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        """Return all as JSON holds it."""
        return {"usable": self.usable, "findings": [vars(item) for item in self.items]}
