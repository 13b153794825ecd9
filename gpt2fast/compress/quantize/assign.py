"""Mixed precision: the format of each matrix under which the model loses least within its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.quantization import EMBEDDING, MatrixFormat, Quantization
from gpt2fast.quantization.panel_layout import matrix_layouts

Table = Mapping[str, Mapping[MatrixFormat, float]]
_MOST_STATES = 20_000  # of the search; matrices of few shapes have far fewer sums of bytes


class _State(NamedTuple):
    """Formats of the first matrices: what they take, what they cost, and how it was come by."""

    size: int
    loss: float
    form: MatrixFormat | None = None
    before: _State | None = None


def matrix_bytes(
    config: ModelConfig, formats: Sequence[MatrixFormat], per_step: bool = False
) -> dict[str, dict[MatrixFormat, int]]:
    """Bytes of each matrix in each format as the C++ runner holds it or, ``per_step``, as decoding
    a token reads them: of an embedding that is not the head as well, next to nothing."""
    found: dict[str, dict[MatrixFormat, int]] = {}
    for form in formats:
        scheme = Quantization(form, form) if form.is_integer else None
        for name, layout in matrix_layouts(config, form.name, scheme).items():
            looked_up = per_step and name == EMBEDDING and not config.tie_word_embeddings
            found.setdefault(name, {})[form] = 0 if looked_up else layout.num_bytes
    return found


def assign_formats(
    sensitivities: Table, sizes: Mapping[str, Mapping[MatrixFormat, int]], budget: int
) -> dict[str, MatrixFormat]:
    """The format of each matrix such that the sum of ``sensitivities`` is least and the sum of
    ``sizes`` at most ``budget`` bytes (of matrices alone: all else is the same).

    Exact: matrix after matrix, all sums are kept that no other beats in both size and loss. Only
    past 20,000 of them some are dropped. Raises OptionError for a budget that nothing fits in.
    """
    least = sum(min(sizes[name][form] for form in row) for name, row in sensitivities.items())
    if least > budget:
        raise OptionError(
            f"{budget} bytes are too few for the matrices: the smallest formats take {least}; "
            "raise the budget, or allow smaller formats"
        )
    states = [_State(0, 0.0)]
    for name, row in sensitivities.items():
        grown = [
            _State(state.size + sizes[name][form], state.loss + loss, form, state)
            for state in states
            for form, loss in row.items()
            if state.size + sizes[name][form] <= budget
        ]
        states = _thinned(_undominated(grown))
        least -= min(sizes[name][form] for form in row)
        states = [state for state in states if state.size + least <= budget]
    state = min(states, key=lambda each: each.loss)
    forms: list[MatrixFormat] = []
    while state.before is not None and state.form is not None:
        forms.append(state.form)
        state = state.before
    return dict(zip(sensitivities, reversed(forms), strict=True))


def _undominated(states: list[_State]) -> list[_State]:
    """Those of which none is smaller and better, by size."""
    kept: list[_State] = []
    for state in sorted(states, key=lambda each: each[:2]):
        if not kept or state.loss < kept[-1].loss:
            kept.append(state)
    return kept


def _thinned(states: list[_State]) -> list[_State]:
    """At most ``_MOST_STATES`` of them, evenly, the smallest and the best among them."""
    if len(states) <= _MOST_STATES:
        return states
    last = len(states) - 1
    return [states[i * last // (_MOST_STATES - 1)] for i in range(_MOST_STATES)]
