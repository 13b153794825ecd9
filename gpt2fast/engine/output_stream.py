"""One completion's text, handed from the engine to whoever reads it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from gpt2fast.engine.loop import Call
from gpt2fast.engine.outputs import RequestOutput, StepOutput


class _Reader:
    """A request that is begun with the first piece that is asked for."""

    def __init__(self, begin: Callable[[], Call[StepOutput]]) -> None:
        self.begin = begin
        self.call: Call[StepOutput] | None = None
        self.output: RequestOutput | None = None


class TextStream(Iterator[str]):
    """Pieces of one completion's text as they come; ``output`` is everything, once they ended.

    The engine does not wait for the reader. Dropping the stream, or ``close()``, frees what it
    holds in the engine; so does an exception that interrupts the waiting, and ends the stream.
    """

    def __init__(self, begin: Callable[[], Call[StepOutput]]) -> None:
        self._reader = _Reader(begin)
        self._pieces = _pieces(self._reader)

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except BaseException:
            self._cancel()
            raise

    @property
    def output(self) -> RequestOutput | None:
        """The finished request; None before the last piece was taken."""
        return self._reader.output

    def close(self) -> None:
        """Abandon the request."""
        self._pieces.close()
        self._cancel()

    def _cancel(self) -> None:
        if self._reader.call is not None:
            self._reader.call.cancel()


def _pieces(reader: _Reader) -> Generator[str, None, None]:
    reader.call = reader.begin()
    while reader.output is None:
        step = reader.call.get()
        for delta in step.deltas:
            if delta.text:
                yield delta.text
        for output in step.finished:
            if output.error is not None:
                raise output.error
            reader.output = output
