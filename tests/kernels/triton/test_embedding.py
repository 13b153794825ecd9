"""Embeddings of tokens and positions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.kernels.triton.embedding import embedding
from gpt2fast.kernels.triton.product import Product
from gpt2fast.kernels.triton.quantized_weight import QuantizedWeight
from support.triton_cases import examples, normal


@pytest.mark.parametrize("form", [None, ("int8", 64), ("int4", 32), ("fp8", 64)], ids=str)
@examples(6)
@given(
    rows=st.integers(1, 20),
    width=st.integers(1, 700),
    vocabulary=st.integers(1, 90),
    seed=st.integers(0, 2**32),
)
def test_rows_of_both_tables(
    device: torch.device,
    dtype: torch.dtype,
    form: tuple[str, int] | None,
    rows: int,
    width: int,
    vocabulary: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight, positions = normal(generator, vocabulary, width), normal(generator, 30, width).to(dtype)
    token = torch.randint(vocabulary, (rows,), generator=generator, dtype=torch.int32)
    position = torch.randint(30, (rows,), generator=generator, dtype=torch.int32)
    stored: torch.Tensor | QuantizedWeight = weight.to(dtype)
    values = weight.to(dtype).float()
    if form is not None:
        stored = QuantizedWeight.from_float(weight, *form)
        values = stored.float()
    table = Product(stored.to(device))
    got = embedding(token.to(device), position.to(device), table, positions.to(device))
    want = (values[token.long()] + positions[position.long()].float()).to(dtype)
    assert torch.equal(got.cpu(), want)


def test_what_is_out_of_range_is_brought_into_it(device: torch.device) -> None:
    table, positions = torch.eye(4, device=device), torch.eye(3, 4, device=device)
    token, position = (
        torch.tensor(v, dtype=torch.int32, device=device) for v in ([-1, 9], [-1, 3])
    )
    got = embedding(token, position, Product(table), positions)
    assert torch.equal(got, torch.stack([table[0] + positions[0], table[3] + positions[2]]))
