"""One new token a sequence over a paged cache, whole and split over programs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.errors import OptionError
from gpt2fast.kernels.triton.attention_decode import SplitWorkspace, attention_decode
from support.triton_cases import examples, paged_case, within_bound


def run(
    device: torch.device,
    dtype: torch.dtype,
    contexts: list[int],
    heads: int,
    size: int,
    splits: int,
    scale: float,
    seed: int,
) -> torch.Tensor:
    counts = [1] * len(contexts)
    case = paged_case(contexts, counts, heads, size, dtype, device, seed)
    workspace = SplitWorkspace(len(contexts), heads, size, splits, device)
    workspace.partial.fill_(torch.nan)
    call = (case.contexts, case.tables, heads, scale, splits, workspace)
    got = attention_decode(case.qkv, case.cache, *call)
    plain, exact = case.attended(scale, dtype), case.attended(scale, torch.float64)
    within_bound(got, plain, exact, case.rounding(scale))
    for s, context in enumerate(contexts):
        block, slot = case.slots(s, context + 1)
        assert torch.equal(case.cache.cpu()[block, 0, :, slot], case.keys[s])
        assert torch.equal(case.cache.cpu()[block, 1, :, slot], case.values[s])
    assert not workspace.arrived.any(), "the next launch counts from zero"
    assert torch.equal(attention_decode(case.qkv, case.cache, *call), got)
    return got


@examples(12)
@given(
    contexts=st.lists(st.integers(0, 400), min_size=1, max_size=3),
    heads=st.integers(1, 3),
    size=st.integers(1, 40) | st.just(64),
    splits=st.integers(1, 5) | st.just(8),
    scale=st.sampled_from([1.0, 0.125, 0.03]),
    seed=st.integers(0, 2**32),
)
def test_any_shape(
    device: torch.device,
    dtype: torch.dtype,
    contexts: list[int],
    heads: int,
    size: int,
    splits: int,
    scale: float,
    seed: int,
) -> None:
    run(device, dtype, contexts, heads, size, splits, scale, seed)


@pytest.mark.parametrize("size", [64, 80, 128, 256])
def test_head_sizes_of_models(device: torch.device, dtype: torch.dtype, size: int) -> None:
    run(device, dtype, [0, 63, 64, 1023], 2, size, 8, size**-0.5, size)


def test_a_sequence_has_the_same_bits_in_any_batch(device: torch.device) -> None:
    case = paged_case([100, 7, 300], [1, 1, 1], 2, 64, torch.float32, device, 1)
    workspace = SplitWorkspace(3, 2, 64, 4, device)
    shared = (2, 0.125, 4, workspace)
    whole = attention_decode(case.qkv, case.cache, case.contexts, case.tables, *shared)
    for s in range(3):
        one = slice(s, s + 1)
        alone = attention_decode(
            case.qkv[one], case.cache, case.contexts[one], case.tables[one], *shared
        )
        assert torch.equal(alone, whole[one])


def test_splits_need_a_workspace_that_is_large_enough(device: torch.device) -> None:
    case = paged_case([5, 5], [1, 1], 2, 8, torch.float32, device, 0)
    arguments = (case.qkv, case.cache, case.contexts, case.tables, 2, 1.0)
    with pytest.raises(OptionError, match="4 splits need a SplitWorkspace"):
        attention_decode(*arguments, splits=4)
    small = SplitWorkspace(1, 2, 8, 4, device)
    with pytest.raises(OptionError, match="too small for 2 sequences"):
        attention_decode(*arguments, splits=4, workspace=small)
