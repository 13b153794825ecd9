"""Causal attention of a ragged batch over a paged cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.kernels.triton.attention_prefill import attention_prefill
from gpt2fast.kernels.triton.cache_append import cache_append
from support.triton_cases import examples, paged_case, within_bound


def run(
    device: torch.device,
    dtype: torch.dtype,
    sequences: list[tuple[int, int]],
    heads: int,
    size: int,
    scale: float,
    seed: int,
) -> torch.Tensor:
    contexts, counts = ([pair[i] for pair in sequences] for i in (0, 1))
    case = paged_case(contexts, counts, heads, size, dtype, device, seed)
    cache_append(*case.arguments, heads, case.longest)
    got = attention_prefill(*case.arguments, heads, scale, case.longest)
    plain, exact = case.attended(scale, dtype), case.attended(scale, torch.float64)
    within_bound(got, plain, exact, case.rounding(scale))
    return got


@examples(12)
@given(
    sequences=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 150)), min_size=1, max_size=3),
    heads=st.integers(1, 3),
    size=st.integers(1, 40) | st.just(64),
    scale=st.sampled_from([1.0, 0.125, 0.03]),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    device: torch.device,
    dtype: torch.dtype,
    sequences: list[tuple[int, int]],
    heads: int,
    size: int,
    scale: float,
    seed: int,
) -> None:
    run(device, dtype, sequences, heads, size, scale, seed)


@pytest.mark.parametrize("size", [64, 80, 128, 256])
def test_head_sizes_of_models(device: torch.device, dtype: torch.dtype, size: int) -> None:
    run(device, dtype, [(0, 130), (127, 129), (1000, 1)], 2, size, size**-0.5, size)


def test_a_sequence_without_rows_changes_nothing(device: torch.device) -> None:
    some = run(device, torch.float32, [(5, 20), (40, 3)], 2, 16, 0.25, 3)
    case = paged_case([5, 40], [20, 3], 2, 16, torch.float32, device, 3)
    cache_append(*case.arguments, 2, 20)
    case.starts = torch.tensor([0, 20, 20, 23], dtype=torch.int32, device=device)
    case.contexts = torch.tensor([5, 9, 40], dtype=torch.int32, device=device)
    case.tables = case.tables[[0, 0, 1]].contiguous()
    assert torch.equal(attention_prefill(*case.arguments, 2, 0.25, 20), some)
