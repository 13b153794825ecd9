"""What a request produces, handed from the engine to whoever reads it, as it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from gpt2fast.engine.loop import Call
from gpt2fast.engine.outputs import Delta, RequestOutput, StepOutput

T = TypeVar("T")


class _Reader:
    """A request that is begun with the first piece that is asked for."""

    def __init__(self, begin: Callable[[], Call[StepOutput]]) -> None:
        self.begin = begin
        self.call: Call[StepOutput] | None = None
        self.output: RequestOutput | None = None


class OutputStream(Iterator[T], Generic[T]):
    """Pieces of a request's output as they come; ``output`` is everything, once they ended.

    The engine does not wait for the reader. Dropping the stream, or ``close()``, frees what it
    holds in the engine; so does an exception that interrupts the waiting, and ends the stream.
    """

    def __init__(
        self,
        begin: Callable[[], Call[StepOutput]],
        pieces: Callable[[_Reader], Generator[T, None, None]],
    ) -> None:
        self._reader = _Reader(begin)
        self._pieces = pieces(self._reader)

    def __next__(self) -> T:
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


class TextStream(OutputStream[str]):
    """The text of one completion."""

    def __init__(self, begin: Callable[[], Call[StepOutput]]) -> None:
        super().__init__(begin, _texts)


class DeltaStream(OutputStream[Delta]):
    """The tokens of all completions."""

    def __init__(self, begin: Callable[[], Call[StepOutput]]) -> None:
        super().__init__(begin, _deltas)


def _deltas(reader: _Reader) -> Generator[Delta, None, None]:
    reader.call = reader.begin()
    while reader.output is None:
        step = reader.call.get()
        yield from step.deltas
        for output in step.finished:
            if output.error is not None:
                raise output.error
            reader.output = output


def _texts(reader: _Reader) -> Generator[str, None, None]:
    for delta in _deltas(reader):
        if delta.text:
            yield delta.text
