"""One completion's text, handed from the engine to whoever reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator

from gpt2fast.engine.outputs import Delta, RequestOutput


class Mailbox:
    """What the engine has produced for one request and its caller has not taken yet."""

    def __init__(self, request_id: str, keep_pieces: bool) -> None:
        self.request_id = request_id
        self.pieces: deque[str] = deque()
        self.output: RequestOutput | None = None
        self._keep_pieces = keep_pieces

    def put(self, delta: Delta) -> None:
        """Keep the text of ``delta`` if somebody reads along."""
        if self._keep_pieces and delta.text:
            self.pieces.append(delta.text)

    @property
    def has_news(self) -> bool:
        """Whether there is anything to take."""
        return self.output is not None or bool(self.pieces)


class TextStream(Iterator[str]):
    """Pieces of one completion's text as they come; ``output`` is everything, once they ended.

    Dropping the stream, or ``close()``, frees what it holds in the engine.
    """

    def __init__(self, pieces: Generator[str, None, None], mail: Mailbox) -> None:
        self._pieces = pieces
        self._mail = mail

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def output(self) -> RequestOutput | None:
        """The finished request; None before the last piece was taken."""
        return self._mail.output

    def close(self) -> None:
        """Abandon the request."""
        self._pieces.close()
