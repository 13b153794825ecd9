"""The CUDA runner against transformers: on a GPU, or interpreted with TRITON_INTERPRET=1."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from gpt2fast import LLM, BeamSearchParams, SamplingParams  # noqa: E402
from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.checkpoint.save import save_quantized  # noqa: E402
from gpt2fast.errors import (  # noqa: E402
    CheckpointError,
    GPT2FastError,
    OptionError,
    UnsupportedError,
)
from gpt2fast.kernels.reference import store_matrix  # noqa: E402
from gpt2fast.kernels.triton.activation import FORMULAS  # noqa: E402
from gpt2fast.quantization import MatrixFormat, Quantization  # noqa: E402
from gpt2fast.runners import FormatOptions, resolve_format  # noqa: E402
from gpt2fast.runners.base import RowSampling, SamplingRunner, StepBatch  # noqa: E402
from gpt2fast.runners.cpu import CpuRunner  # noqa: E402
from gpt2fast.runners.cuda import CudaRunner  # noqa: E402
from support.bits import check_forks  # noqa: E402
from support.gumbel_reference import kept, noise  # noqa: E402
from support.model_grid import BASE, FLAG_GRID, PRUNED, PRUNED_GRID  # noqa: E402
from support.paged import PagedSequences  # noqa: E402
from support.triton_cases import poisoned  # noqa: E402

# The kernels' own tests have the activations: here one that has a kernel, one that has not. What
# nothing in this runner depends on is left to `make test-slow`.
SLOW = ("deep", "inner_small", "inverse_layer_no_scale", "one_layer", "pruned_head20",
        "reorder_inverse_layer", "vocab1000")  # fmt: skip
GRID = [
    pytest.param(*each.values, id=each.id, marks=pytest.mark.slow if each.id in SLOW else ())
    for each in FLAG_GRID + PRUNED_GRID[:2]
    if not str(each.id).startswith("act_") or each.id in ("act_relu", "act_mish")
]
SMALL = {**BASE, "n_layer": 1, "n_embd": 24, "vocab_size": 61}
MIXED = Quantization(
    MatrixFormat("int3", 32),
    MatrixFormat("int8", 64),
    (
        ("h.0.attn.c_attn.weight", MatrixFormat("bfloat16")),
        ("h.1.mlp.c_fc.weight", MatrixFormat("int4", 64)),
        ("h.1.mlp.c_proj.weight", MatrixFormat("float32")),
    ),
)
MakeCheckpoint = Callable[..., tuple[Path, Any]]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CAN_RUN = INTERPRETED or torch.cuda.is_available()
needs_kernels = pytest.mark.skipif(
    not CAN_RUN, reason="no GPU; TRITON_INTERPRET=1 runs the kernels on the CPU"
)


# Filling memory puts a kernel between ours, so that none of them is launched early: on a GPU every
# test runs without it as well.
@pytest.fixture(autouse=True, params=[True, False] if CAN_RUN and not INTERPRETED else [True])
def _poisoned(request: pytest.FixtureRequest) -> Iterator[None]:
    """The cache, too, holds NaN where nothing was written."""
    with poisoned() if request.param else nullcontext():
        yield


def make(
    path: Path,
    dtype: str = "float32",
    quantization: Quantization | None = None,
    device: str = "cuda",
    **options: Any,
) -> CudaRunner:
    with open_checkpoint(path) as checkpoint:
        formats = FormatOptions("auto" if quantization else dtype, quantization)
        form = resolve_format(checkpoint, formats, device)
        form = replace(form, dtype=dtype, kv_cache_dtype=dtype)
        return CudaRunner(checkpoint, form, **{"num_blocks": 64, **options})


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
    assert isinstance(runner, SamplingRunner)
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
def test_forks_of_a_pruned_model_write_to_blocks_of_their_own(
    make_checkpoint: MakeCheckpoint,
) -> None:
    path, _ = make_checkpoint(**{**SMALL, "n_layer": 2, "layers": ((1, 20), (3, 33))})
    check_forks(make(path))


@needs_kernels
def test_float16_is_as_near_as_torch_in_float16(make_checkpoint: MakeCheckpoint) -> None:
    path, model = make_checkpoint(**BASE)
    tokens = text(30, BASE["vocab_size"])
    got = PagedSequences(make(path, dtype="float16")).logits(tokens, [13, 1, 16])
    exact = expected_logits(model, tokens)
    plain = expected_logits(copy.deepcopy(model).half(), tokens)
    assert np.abs(got - exact).max() <= 2 * np.abs(plain - exact).max() + 1e-3


@needs_kernels
def test_the_engine_on_it(make_checkpoint: MakeCheckpoint) -> None:
    """Batches, shared prefixes, penalties and beams, all against the C++ runner."""
    path, _ = make_checkpoint(**SMALL)
    prompt = [int(t) for t in text(20, SMALL["vocab_size"])]
    prompts = [prompt, [*prompt[:17], 3, 4], prompt[:3]]
    greedy = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    penalized = SamplingParams(
        seed=5, max_tokens=4, ignore_eos=True, presence_penalty=0.5, logprobs=2
    )
    beams = BeamSearchParams(beam_width=2, max_tokens=4)
    found = []
    for options in ({"device": "cpu"}, {"device": "cuda", "dtype": "float32"}):
        with LLM(path, max_batch_tokens=16, **options) as llm:
            outputs = [
                *llm.generate(prompts, greedy),
                *llm.generate([prompt] * 2, [penalized, greedy]),
                *llm.beam_search([prompt], beams),
            ]
            found.append([[list(each.token_ids) for each in out.outputs] for out in outputs])
            assert llm.stats()["hit_tokens"] > 0
            assert llm.stats()["copies"] > 0
    assert found[0] == found[1]


@needs_kernels
@pytest.mark.parametrize("filters", [{}, {"top_k": 20, "top_p": 0.9}], ids=str)
def test_tokens_that_the_gpu_chooses(
    make_checkpoint: MakeCheckpoint, filters: dict[str, Any]
) -> None:
    """Each is the best of the model's logits with the noise of its seed, alone and in a batch."""
    path, model = make_checkpoint(**SMALL)
    prompts = [[int(t) for t in text(n, SMALL["vocab_size"], n)] for n in (9, 4, 1)]
    params = [
        SamplingParams(
            temperature=0.8, seed=2**63 + i, max_tokens=11 + i, ignore_eos=True, **filters
        )
        for i in range(len(prompts))
    ]
    with LLM(path, device="cuda", dtype="float32") as llm:
        outputs = [out.outputs[0].token_ids for out in llm.generate(prompts, params)]
        assert llm.generate(prompts[1], params[1])[0].outputs[0].token_ids == outputs[1]
    for prompt, tokens, each in zip(prompts, outputs, params, strict=True):
        rows = expected_logits(model, np.array(prompt + tokens, np.int32))[len(prompt) - 1 :]
        for draw, (row, token) in enumerate(zip(rows, tokens, strict=False)):
            left = kept(row.astype(np.float64), 0.8, each.top_k, each.top_p, 0.0) / 0.8
            left += noise(len(row), each.seed, 0, draw)
            assert left[token] >= left.max() - 1e-3


@needs_kernels
def test_completions_of_a_prompt_differ_and_repeat(make_checkpoint: MakeCheckpoint) -> None:
    path, _ = make_checkpoint(**SMALL)
    params = SamplingParams(n=3, seed=1, max_tokens=6, ignore_eos=True)
    with LLM(path, device="cuda", dtype="float32") as llm:
        once, twice = ([o.token_ids for o in llm.generate([5, 6], params)[0].outputs] for _ in "12")
    assert once == twice
    assert len({tuple(tokens) for tokens in once}) == 3


@needs_kernels
def test_many_steps_in_one_call(make_checkpoint: MakeCheckpoint) -> None:
    """Three sequences in four places; contexts that pass the end of a block; then more, unasked."""
    path, model = make_checkpoint(**SMALL)
    runner = make(path)
    lengths = [14, 1, 30]
    tables = np.random.default_rng(0).permutation(64)[:18].reshape(3, 6).astype(np.int32)
    tokens = [text(n + 1, SMALL["vocab_size"], n) for n in lengths]
    runner.step(
        StepBatch(
            token_ids=np.concatenate([each[:-1] for each in tokens]),
            query_starts=np.cumsum([0, *lengths]).astype(np.int32),
            context_lens=np.zeros(3, np.int32),
            block_tables=tables,
            logit_rows=np.zeros(0, np.int32),
        )
    )
    batch = StepBatch(
        token_ids=np.array([each[-1] for each in tokens], np.int32),
        query_starts=np.arange(4, dtype=np.int32),
        context_lens=np.array(lengths, np.int32),
        block_tables=tables,
        logit_rows=np.arange(3, dtype=np.int32),
    )
    zeros = np.zeros(3, np.int32)
    greedy = RowSampling(
        temperature=np.zeros(3, np.float32),
        top_k=zeros,
        top_p=np.ones(3, np.float32),
        min_p=np.zeros(3, np.float32),
        seed=np.zeros(3, np.uint64),
        stream=zeros,
        draw=zeros,
    )
    first, more = runner.sample(batch, greedy, 9), runner.sample_more(tables, 3)
    found = np.concatenate([first.wait(), more.wait()], axis=1)
    for prompt, mine in zip(tokens, found, strict=True):
        logits = expected_logits(model, np.concatenate([prompt, mine[:-1]]))[len(prompt) - 1 :]
        assert mine.tolist() == logits.argmax(axis=1).tolist()
    with pytest.raises(OptionError, match="steps = 33"):
        runner.sample(batch, greedy, 33)


@needs_kernels
@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        *((BASE, scheme) for scheme in ("int8", "int4-g32", "mixed", "fp8")),
        *((PRUNED, scheme) for scheme in ("int8", "int4-g32")),
    ],
    ids=["int8", "int4-g32", "mixed", "fp8", "pruned-int8", "pruned-int4-g32"],
)
def test_small_weights(
    make_checkpoint: MakeCheckpoint, fields: dict[str, Any], scheme: str, tmp_path: Path
) -> None:
    """Rounded as they are loaded: transformers with the values that the integers stand for. As
    saved: the torch runner's."""
    path, model = make_checkpoint(**fields)
    tokens = text(30, BASE["vocab_size"])
    quantization = MIXED if scheme == "mixed" else Quantization.parse(scheme)
    if scheme != "fp8":
        with open_checkpoint(path) as checkpoint:
            cpu = CpuRunner(
                checkpoint,
                resolve_format(checkpoint, FormatOptions(quantization=quantization)),
                num_blocks=1,
            )
        small = tmp_path / "small"
        save_quantized(small, path, cpu.config, quantization, cpu.packed_tensors())
        with LLM(tmp_path / "small", device="torch") as llm:
            want = llm.logits(tokens.tolist())
        got = PagedSequences(make(tmp_path / "small")).logits(tokens, [13, 1, 16])
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    if fields is PRUNED:  # zeros in the place of what is gone would shift the groups
        return
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_table = name.endswith(("wte.weight", "lm_head.weight"))
            form = quantization.format_of(name.removeprefix("transformer."))
            if is_table:
                weight.copy_(store_matrix(weight, form.name, form.group_size))
            elif weight.dim() == 2 and "wpe" not in name:
                weight.copy_(store_matrix(weight.T, form.name, form.group_size).T)
    runner = make(path, quantization=quantization)
    got = PagedSequences(runner).logits(tokens, [13, 1, 16])
    np.testing.assert_allclose(got, expected_logits(model, tokens), rtol=1e-4, atol=1e-4)


@needs_kernels
def test_damaged_weights_end_their_request(make_checkpoint: MakeCheckpoint) -> None:
    path, _ = make_checkpoint(**SMALL)
    with LLM(path, device="cuda", dtype="float32") as llm:
        head = llm._open_runner()._forward.weights.head
        with torch.inference_mode():
            head.bias.fill_(torch.nan)  # in place: recorded graphs have its address
        for params in (SamplingParams(temperature=0.0), SamplingParams(top_k=3, seed=1)):
            with pytest.raises(CheckpointError, match="largest logit is nan"):
                llm.generate([1, 2, 3], params)


@pytest.mark.skipif(CAN_RUN, reason="kernels can run here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_machine_without_a_gpu_is_told_so(make_checkpoint: MakeCheckpoint, device: str) -> None:
    path, _ = make_checkpoint(**BASE)
    with pytest.raises(OptionError, match=f"device = '{device}' cannot be had: .* use 'cpu'"):
        LLM(path, device=device)


@pytest.mark.parametrize("missing", ["torch", "triton"])
def test_what_is_not_installed_is_said(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from gpt2fast.cli import main; main()"
    command = [sys.executable, "-c", code, "generate", "demo", "x", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "device 'cuda' needs PyTorch and Triton: pip install 'gpt2fast[gpu]'" in done.stderr
    assert "Traceback" not in done.stderr


@needs_kernels
@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        ({}, {"dtype": "float8"}, "dtype = 'float8' is not known"),
        ({"n_embd": 257, "n_head": 1}, {}, "heads of 257 exceed"),
        ({}, {"block_size": 0}, "block_size = 0 is not valid"),
        ({}, {"max_seqs": 40000}, "max_seqs = 40000 is not valid"),
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
        ({"kv_cache_dtype": "int8"}, "'int8' is not available with device = 'cuda'"),
    ],
)
def test_options_of_the_cpu_are_refused(
    make_checkpoint: MakeCheckpoint, options: dict[str, Any], message: str
) -> None:
    path, _ = make_checkpoint(**BASE)
    with pytest.raises(GPT2FastError, match=message):
        LLM(path, device="cuda", **options)
