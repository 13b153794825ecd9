"""The CUDA runner against transformers: on a GPU, or interpreted with TRITON_INTERPRET=1."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from gpt2fast import LLM, BeamSearchParams, SamplingParams  # noqa: E402
from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.errors import GPT2FastError, OptionError, UnsupportedError  # noqa: E402
from gpt2fast.kernels.triton.activation import FORMULAS  # noqa: E402
from gpt2fast.runners.cuda import CudaRunner  # noqa: E402
from model_grid import BASE, FLAG_GRID  # noqa: E402
from paged import PagedSequences  # noqa: E402

# The kernels' own tests have the activations: here one that has a kernel, one that has not.
GRID = [
    each
    for each in FLAG_GRID
    if not str(each.id).startswith("act_") or each.id in ("act_relu", "act_mish")
]
MakeCheckpoint = Callable[..., tuple[Path, Any]]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CAN_RUN = INTERPRETED or torch.cuda.is_available()
needs_kernels = pytest.mark.skipif(
    not CAN_RUN, reason="no GPU; TRITON_INTERPRET=1 runs the kernels on the CPU"
)


def make(path: Path, **options: Any) -> CudaRunner:
    with open_checkpoint(path) as checkpoint:
        return CudaRunner(checkpoint, **{"num_blocks": 64, "dtype": "float32", **options})


def text(length: int, vocabulary: int, seed: int = 7) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(vocabulary, size=length).astype(np.int32)


def expected_logits(model: Any, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].float().numpy()


@needs_kernels
@pytest.mark.parametrize("overrides", GRID)
def test_mixed_steps_equal_transformers(
    overrides: dict[str, Any], make_checkpoint: MakeCheckpoint
) -> None:
    path, model = make_checkpoint(**overrides)
    if overrides.get("activation_function", "gelu_new") not in FORMULAS:
        with pytest.raises(UnsupportedError, match="has no GPU kernel"):
            make(path)
        return
    runner = make(path)
    sequences = PagedSequences(runner)
    texts = [text(n, overrides["vocab_size"]) for n in (40, 23)]
    ids = [sequences.create(each)[0] for each in texts]
    got: list[list[NDArray[np.float32]]] = [[], []]
    # A chunk past a block, a prompt beside a decoding sequence, two that decode, a chunk each.
    for pieces in ((17, 0), (1, 20), (1, 1), (21, 2)):
        done = [sum(map(len, each)) for each in got]
        chunks = [
            (s, ids[s], texts[s][done[s] : done[s] + count])
            for s, count in enumerate(pieces)
            if count
        ]
        rows = sequences.step([(each, tokens) for _, each, tokens in chunks])
        for (s, _, _), part in zip(chunks, rows, strict=True):
            got[s].append(part)
    for s, each in enumerate(texts):
        want = expected_logits(model, each)
        np.testing.assert_allclose(np.concatenate(got[s]), want, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_float16_is_as_near_as_torch_in_float16(make_checkpoint: MakeCheckpoint) -> None:
    path, model = make_checkpoint(**BASE)
    tokens = text(30, BASE["vocab_size"])
    got = PagedSequences(make(path, dtype="float16")).logits(tokens, [13, 1, 16])
    exact = expected_logits(model, tokens)
    plain = expected_logits(model.half(), tokens)
    model.float()
    assert np.abs(got - exact).max() <= 2 * np.abs(plain - exact).max() + 1e-3


@needs_kernels
def test_the_engine_on_it(make_checkpoint: MakeCheckpoint) -> None:
    """Batches, shared prefixes, forked completions and beams, all against the C++ runner."""
    path, _ = make_checkpoint(**BASE)
    prompt = [int(t) for t in text(20, BASE["vocab_size"])]
    prompts = [prompt, [*prompt[:17], 3, 4], prompt[:3]]
    greedy = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    sampled = SamplingParams(n=2, seed=5, max_tokens=4, ignore_eos=True)
    beams = BeamSearchParams(beam_width=2, max_tokens=4)
    found = []
    for options in ({"device": "cpu"}, {"device": "cuda", "dtype": "float32"}):
        with LLM(path, max_batch_tokens=16, **options) as llm:
            outputs = [
                *llm.generate(prompts, greedy),
                *llm.generate([prompt], sampled),
                *llm.beam_search([prompt], beams),
            ]
            found.append([[list(each.token_ids) for each in out.outputs] for out in outputs])
            assert llm.stats()["hit_tokens"] > 0
            assert llm.stats()["copies"] > 0
    assert found[0] == found[1]


@pytest.mark.skipif(CAN_RUN, reason="kernels can run here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_machine_without_a_gpu_is_told_so(make_checkpoint: MakeCheckpoint, device: str) -> None:
    path, _ = make_checkpoint(**BASE)
    with pytest.raises(OptionError, match=f"device = '{device}' cannot be had: .* use 'cpu'"):
        LLM(path, device=device)


@needs_kernels
@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ({}, {"dtype": "float8"}, "dtype = 'float8' is not known"),
        ({"n_embd": 257, "n_head": 1}, {}, "heads of 257 exceed"),
    ],
)
def test_what_is_not_supported_is_named(
    make_checkpoint: MakeCheckpoint,
    overrides: dict[str, Any],
    options: dict[str, Any],
    message: str,
) -> None:
    path, _ = make_checkpoint(**(BASE | overrides))
    with pytest.raises(GPT2FastError, match=message):
        make(path, **options)


@needs_kernels
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_threads": 2}, "num_threads = 2 is for the cpu runner"),
        ({"quantization": "int8"}, "'int8-g64' is not available with device = 'cuda'"),
        ({"kv_cache_dtype": "int8"}, "'int8' is not available with device = 'cuda'"),
    ],
)
def test_options_of_the_cpu_are_refused(
    make_checkpoint: MakeCheckpoint, options: dict[str, Any], message: str
) -> None:
    path, _ = make_checkpoint(**BASE)
    with pytest.raises(GPT2FastError, match=message):
        LLM(path, device="cuda", **options)
