"""``torch.multinomial`` for a token of each row, the same tokens in a fraction of the time.

It divides probabilities by exponential noise and takes the largest. Noise for tokens of no
probability is never looked at, and so not computed: the generator is moved past it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast._C import draw_tokens, uniform_doubles
from gpt2fast.hf.backend.fork_safe_lock import Lock

_MANY = 1 << 17  # numbers; of more it makes each as it does of so many
_TURN = Lock()  # a state is taken out and put back


class _State:
    """torch's state of a Mersenne Twister: a seed; how many words are left, and a flag; how many
    are used; the words, each in 64 bits; and what this leaves alone."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator, self._bytes = generator, generator.get_state()
        array = self._bytes.numpy()
        self._left, self._numbers = array.view(np.int32)[2:3], array.view(np.uint64)
        self.words = self._numbers[3 : 3 + 624]
        self.used = 625 - int(self._left[0])

    def put_back(self, used: int) -> None:
        """With other ``words``, ``used`` of which are used up."""
        self._left[0], self._numbers[2] = 625 - used, used
        self._generator.set_state(self._bytes)


def draw(probabilities: Tensor) -> Tensor:
    """(B,): a token of each row of ``probabilities`` (B, V), by torch's default generator."""
    sums = probabilities.sum(dim=-1)
    are_numbers = bool((sums > 0).all()) and bool(sums.isfinite().all())  # else an error of torch's
    on_cpu = probabilities.device.type == "cpu"
    if not (on_cpu and are_numbers and is_known(probabilities.numel())):
        return torch.multinomial(probabilities, num_samples=1)[:, 0]
    flat = probabilities.reshape(-1)
    places = flat.nonzero()[:, 0]
    uniform = uniform_at(places.numpy(), flat.numel(), torch.default_generator)
    # The largest of each row; tokens of no probability are below all others.
    races = torch.full_like(flat, -1.0)
    races[places] = flat[places] / exponential(uniform, flat.dtype)
    return races.view_as(probabilities).argmax(dim=-1)


def exponential(uniform: Tensor, dtype: torch.dtype) -> Tensor:
    """Noise of ``dtype`` from ``uniform`` numbers."""
    return -torch.log1p(-uniform).to(dtype)


def uniform_at(places: NDArray[np.int64], count: int, generator: torch.Generator) -> Tensor:
    """(N,): of the next ``count`` uniform numbers, which are used up, those at ``places`` (N,),
    ascending."""
    with _TURN.rlock:
        state = _State(generator)
        values, used = uniform_doubles(state.words, state.used, count, places)
        state.put_back(used)
    return torch.from_numpy(values)


def draw_warped(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, least: int
) -> NDArray[np.int64] | None:
    """(B,): a token of each row of ``logits`` (B, V) behind transformers' warpers of these names,
    by torch's default generator; top-p keeps ``least`` at least, and is left out where it is 1.
    None, and nothing is drawn, where torch's roundings decide."""
    with _TURN.rlock:
        state = _State(torch.default_generator)
        words, used = state.words, state.used
        tokens, used = draw_tokens(logits, temperature, top_k, top_p, least, words, used)
        if tokens is not None:
            state.put_back(used)
    return tokens


def is_known(count: int) -> bool:
    """Whether the torch that is installed makes its noise so, for ``count`` numbers."""
    return _is_known(min(count, _MANY))


@cache
def _is_known(count: int) -> bool:
    theirs, ours = (torch.Generator().manual_seed(count) for _ in range(2))
    want = torch.empty(count, dtype=torch.float32, device="cpu").exponential_(generator=theirs)
    try:
        uniform = uniform_at(np.arange(count), count, ours)
    except (ValueError, IndexError, RuntimeError):  # a state of another kind
        return False
    same = torch.equal(want, exponential(uniform, want.dtype))
    return same and torch.equal(theirs.get_state(), ours.get_state())
