"""Finding stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Lets text through up to the first stop string, whatever the pieces it arrives in.

    The stop string that is complete first ends the text; of several complete at the same character,
    the longest. Text that may be the beginning of one is held back.
    """

    def __init__(self, strings: Sequence[str], include: bool) -> None:
        self._strings = sorted(strings, key=len, reverse=True)
        self._include = include
        self._held = ""

    def push(self, piece: str, may_stop: bool = True) -> tuple[str, str | None]:
        """Text that is free to go, and the stop string that was completed by ``piece``, if any.

        With ``may_stop`` False, a stop string completed by this piece does not count.
        """
        text = self._held + piece
        match = self._first_match(text) if may_stop else None
        if match is not None:
            start, string = match
            self._held = ""
            return text[: start + len(string) if self._include else start], string
        free = len(text) - self._beginning_length(text)
        self._held = text[free:]
        return text[:free], None

    def flush(self) -> str:
        """What was held back; the text has ended and no stop string can be completed any more."""
        text, self._held = self._held, ""
        return text

    def _first_match(self, text: str) -> tuple[int, str] | None:
        old = len(self._held)  # a match that ends in here was passed over on purpose
        first: tuple[int, str] | None = None
        for string in self._strings:
            start = text.find(string, max(0, old - len(string) + 1))
            if start >= 0 and (first is None or start + len(string) < first[0] + len(first[1])):
                first = (start, string)
        return first

    def _beginning_length(self, text: str) -> int:
        """Length of the longest end of ``text`` that is a proper beginning of a stop string."""
        longest = 0
        for string in self._strings:
            for length in range(min(len(string) - 1, len(text)), longest, -1):
                if text.endswith(string[:length]):
                    longest = length
                    break
        return longest
