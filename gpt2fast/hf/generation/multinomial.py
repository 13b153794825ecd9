"""``torch.multinomial`` with one sample a row: the same tokens in a fraction of the time.

torch divides probabilities by exponential noise and takes the largest quotient. Noise for tokens of
probability zero does not matter, so it is not computed: the generator skips its random numbers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2fast._C import draw_tokens, uniform_doubles
from gpt2fast.hf.backend.fork_safe_lock import ForkSafeLock

_MAX_CHECKED = 1 << 17  # torch fills larger tensors the same way as one of this size
_GENERATOR_LOCK = ForkSafeLock()  # while a generator's state is copied, advanced and set


class _GeneratorState:
    """The state of torch's Mersenne Twister, laid out as: seed; words left and a flag; index of the
    next word; the words, each in 64 bits; cached normal samples, which stay as they are."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator, self._bytes = generator, generator.get_state()
        array = self._bytes.numpy()
        self._left, self._numbers = array.view(np.int32)[2:3], array.view(np.uint64)
        self.words = self._numbers[3 : 3 + 624]
        self.used = 625 - int(self._left[0])

    def set(self, used: int) -> None:
        """Store the (changed) ``words``, of which ``used`` are consumed, in the generator."""
        self._left[0], self._numbers[2] = 625 - used, used
        self._generator.set_state(self._bytes)


def multinomial(probabilities: Tensor) -> Tensor:
    """(B,): a token of each row of ``probabilities`` (B, V), by torch's default generator."""
    sums = probabilities.sum(dim=-1)
    is_valid = bool((sums > 0).all()) and bool(sums.isfinite().all())  # else torch raises its error
    on_cpu = probabilities.device.type == "cpu"
    if not (on_cpu and is_valid and matches_torch(probabilities.numel())):
        return torch.multinomial(probabilities, num_samples=1)[:, 0]
    flat = probabilities.reshape(-1)
    indices = flat.nonzero()[:, 0]
    uniform = uniform_at(indices.numpy(), flat.numel(), torch.default_generator)
    quotients = torch.full_like(flat, -1.0)  # below those of all tokens with a probability
    quotients[indices] = flat[indices] / exponential(uniform, flat.dtype)
    return quotients.view_as(probabilities).argmax(dim=-1)


def exponential(uniform: Tensor, dtype: torch.dtype) -> Tensor:
    """Exponential noise of ``dtype`` from ``uniform`` numbers."""
    return -torch.log1p(-uniform).to(dtype)


def uniform_at(indices: NDArray[np.int64], count: int, generator: torch.Generator) -> Tensor:
    """(N,): those at ``indices`` (N,), ascending, of the next ``count`` uniform numbers. The
    generator advances by all of them."""
    with _GENERATOR_LOCK.rlock:
        state = _GeneratorState(generator)
        values, used = uniform_doubles(state.words, state.used, count, indices)
        state.set(used)
    return torch.from_numpy(values)


def sample_warped(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_tokens: int
) -> NDArray[np.int64] | None:
    """Sample by torch's default generator as after transformers' warpers of these names.

    Args:
        logits: (B, V).
        temperature: divides the logits.
        top_k: how many of the largest logits are kept.
        top_p: probability of the nucleus; 1 turns top-p off.
        min_tokens: how many tokens top-p keeps at least.

    Returns tokens (B,); None, with the generator unchanged, if the result depends on torch's
    rounding."""
    with _GENERATOR_LOCK.rlock:
        state = _GeneratorState(torch.default_generator)
        tokens, used = draw_tokens(
            logits, temperature, top_k, top_p, min_tokens, state.words, state.used
        )
        if tokens is not None:
            state.set(used)
    return tokens


def matches_torch(count: int) -> bool:
    """Whether the installed torch makes ``count`` exponential numbers as this module does."""
    return _matches_torch(min(count, _MAX_CHECKED))


@cache
def _matches_torch(count: int) -> bool:
    theirs, ours = (torch.Generator().manual_seed(count) for _ in range(2))
    expected = torch.empty(count, dtype=torch.float32, device="cpu").exponential_(generator=theirs)
    try:
        uniform = uniform_at(np.arange(count), count, ours)
    except (ValueError, IndexError, RuntimeError):  # the generator's state has another layout
        return False
    equal = torch.equal(expected, exponential(uniform, expected.dtype))
    return equal and torch.equal(theirs.get_state(), ours.get_state())
