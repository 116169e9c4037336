"""The words of an ADQL text, one after the other."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from apdb.errors import BadQuery

__all__ = ["Word", "Words"]

MAX_TEXT = 10_000
MAX_DEPTH = 30
MAX_NUMBER = 100  # characters
_WORD = re.compile(
    r"(?P<space>\s+|--[^\n]*)|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<string>'(?:[^']|'')*')"
    r'|(?P<quoted>"[^"]+")|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|<>|!=|[=<>+\-*/(),.])'
)


@dataclass(frozen=True)
class Word:
    """A word: its kind (number, string, quoted, name, sign, end), its text, where it begins."""

    kind: str
    text: str
    offset: int

    @property
    def upper(self) -> str:
        """Its text as a keyword is compared; nothing of strings and of quoted names."""
        return self.text.upper() if self.kind in ("name", "sign") else ""


class Words:
    """Goes through the words of a text.

    Raises
    ------
    BadQuery
        A character that begins no word; a text that is too long, or has too many brackets in each other.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEXT:
            raise BadQuery(f"the query is longer than {MAX_TEXT} characters")
        text = text.rstrip().removesuffix(";")
        self._words: list[Word] = []
        offset = 0
        while offset < len(text):
            match = _WORD.match(text, offset)
            if match is None:
                raise BadQuery(f"{text[offset : offset + 20]!r} at character {offset + 1} begins no word of ADQL")
            if match.lastgroup == "number" and len(match[0]) > MAX_NUMBER:
                raise BadQuery(f"ADQL: a number of {len(match[0])} characters at character {offset + 1}")
            if match.lastgroup != "space":
                self._words.append(Word(str(match.lastgroup), match[0], offset))
            offset = match.end()
        depth = 0
        for word in self._words:
            depth += (word.text == "(") - (word.text == ")")
            if depth > MAX_DEPTH:
                raise BadQuery(f"ADQL: more than {MAX_DEPTH} brackets in each other at character {word.offset + 1}")
        self._words.append(Word("end", "", len(text)))
        self.index = 0

    @property
    def now(self) -> Word:
        """The word that comes next."""
        return self._words[self.index]

    def next(self) -> Word:
        """Take a word."""
        word = self.now
        self.index += word.kind != "end"
        return word

    def take(self, *texts: str) -> bool:
        """Take the next words if they are these."""
        if [w.upper for w in self._words[self.index : self.index + len(texts)]] != list(texts):
            return False
        self.index += len(texts)
        return True

    def follows(self, *texts: str) -> bool:
        """Whether these come behind the next word."""
        return [w.upper for w in self._words[self.index + 1 : self.index + 1 + len(texts)]] == list(texts)

    def opens(self, among: Collection[str]) -> bool:
        """Whether the next word opens brackets that hold one of some words."""
        if self.now.text != "(":
            return False
        depth = 0
        for word in self._words[self.index :]:
            depth += (word.text == "(") - (word.text == ")")
            if word.upper in among:
                return True
            if depth == 0:
                break
        return False

    def need(self, text: str) -> None:
        """Take a word that must be there.

        Raises
        ------
        BadQuery
            Another is.
        """
        if not self.take(text):
            raise self.wrong(f"expected {text}")

    def wrong(self, what: str) -> BadQuery:
        """Return the error that says what is wrong at the next word."""
        word = self.now
        came = f"{word.text!r} at character {word.offset + 1}" if word.kind != "end" else "the end"
        return BadQuery(f"ADQL: {what}, came {came}")
