"""Storing keys and values in a paged cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.errors import OptionError
from gpt2fast.kernels.triton.cache_append import cache_append
from support.triton_cases import examples, paged_case


@examples(12)
@given(
    sequences=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=1, max_size=3),
    heads=st.integers(1, 3),
    size=st.integers(1, 40) | st.just(64),
    seed=st.integers(0, 2**32),
)
def test_tokens_are_where_the_tables_say(
    device: torch.device,
    dtype: torch.dtype,
    sequences: list[tuple[int, int]],
    heads: int,
    size: int,
    seed: int,
) -> None:
    contexts, counts = ([pair[i] for pair in sequences] for i in (0, 1))
    counts[0] += not any(counts)
    case = paged_case(contexts, counts, heads, size, dtype, device, seed)
    expected = case.cache.cpu().clone()
    for s, length in enumerate(c + n for c, n in zip(contexts, counts, strict=True)):
        block, slot = case.slots(s, length)
        expected[block, 0, :, slot] = case.keys[s]
        expected[block, 1, :, slot] = case.values[s]
    cache_append(*case.arguments, heads, case.longest)
    # NaN where nothing was written before, and nothing was now.
    torch.testing.assert_close(case.cache.cpu(), expected, rtol=0, atol=0, equal_nan=True)


def test_a_cache_of_another_shape_is_refused(device: torch.device) -> None:
    case = paged_case([0], [3], 2, 8, torch.float32, device, 0)
    with pytest.raises(OptionError, match="does not fit 4 heads of 4"):
        cache_append(*case.arguments, 4, 3)
    case.cache = case.cache.transpose(3, 4).contiguous().transpose(3, 4)
    with pytest.raises(OptionError, match="must be contiguous"):
        cache_append(*case.arguments, 2, 3)
