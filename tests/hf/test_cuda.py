"""A model in hand on the CUDA runner: on a GPU, or interpreted with TRITON_INTERPRET=1."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("triton")

from gpt2fast import hf  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402
from support.hf_pair import CACHE, cache_of, close, left_padding, make, texts  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_A_GPU = torch.cuda.is_available()
pytestmark = pytest.mark.filterwarnings("error:gpt2fast leaves")
needs_gpu = pytest.mark.skipif(not (INTERPRETED or ON_A_GPU), reason="there is no GPU")
SMALL = {"n_layer": 1, "n_embd": 32, "n_head": 2, "vocab_size": 61, "n_positions": 32}


def pair(kind: str = "GPT2LMHeadModel", **options: Any) -> tuple[Any, Any]:
    model = make(kind, **SMALL, num_labels=3)
    return hf.accelerate(copy.deepcopy(model), device="cuda", **options), model


@needs_gpu
@torch.no_grad()
def test_logits_caches_and_a_ragged_batch() -> None:
    ours, theirs = pair()
    ids = texts(2, 7, 61)
    want = theirs(ids).logits
    close(ours(ids).logits, want)
    assert ours.last_run == hf.LastRun("cuda")
    cache = cache_of(ours(ids[:, :4], use_cache=True))
    cache.reorder_cache(torch.tensor([1, 0]))
    close(ours(ids[[1, 0], 4:], **{CACHE: cache}).logits, want[[1, 0], 4:])
    mask = left_padding(2, 7)
    given = {"attention_mask": mask, "max_new_tokens": 5, "pad_token_id": 1, "eos_token_id": None}
    for mode in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}):
        assert torch.equal(
            ours.generate(ids, **given, **mode), theirs.generate(ids, **given, **mode)
        )


@needs_gpu
@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2ForSequenceClassification"])
@torch.no_grad()
def test_hidden_states(kind: str) -> None:
    ours, theirs = pair(kind)
    ids = texts(2, 7, 61)
    for found, want in zip(
        ours(ids, use_cache=False).values(), theirs(ids, use_cache=False).values(), strict=True
    ):
        close(found, want)


@needs_gpu
@torch.no_grad()
def test_integers() -> None:
    ours, theirs = pair(quantization="int8")
    ids = texts(2, 7, 61)
    error = torch.linalg.norm(ours(ids).logits - theirs(ids).logits)
    assert 0 < error.item() < 0.05 * torch.linalg.norm(theirs(ids).logits).item()


@pytest.mark.skipif(not ON_A_GPU, reason="there is no GPU")
@torch.no_grad()
def test_weights_on_the_gpu_too() -> None:
    ours, theirs = pair()
    ids = texts(2, 7, 61).cuda()
    found = ours.cuda()(ids).logits
    assert found.is_cuda
    close(found, theirs.cuda()(ids).logits)


def test_other_devices_are_refused() -> None:
    with pytest.raises(OptionError, match="device = 'gpu' is not known"):
        hf.accelerate(make(**SMALL), device="gpu")
    if not (INTERPRETED or ON_A_GPU):
        with pytest.raises(OptionError, match="'cuda' cannot be had"):
            hf.accelerate(make(**SMALL), device="cuda")
