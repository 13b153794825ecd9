"""The torch runner, step by step, against transformers' logits over the whole text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402
from gpt2fast.runners import FormatOptions, make_runner, resolve_format  # noqa: E402
from gpt2fast.runners.base import StepBatch  # noqa: E402
from gpt2fast.runners.torch import TorchRunner  # noqa: E402
from support.model_grid import BASE, FLAG_GRID, PRUNED_GRID  # noqa: E402

MakeCheckpoint = Callable[..., tuple[Path, Any]]
NUM_BLOCKS = 64


def make(path: Path, dtype: str = "auto", device: str = "torch", **options: Any) -> TorchRunner:
    with open_checkpoint(path) as checkpoint:
        form = resolve_format(checkpoint, FormatOptions(dtype), device)
        return TorchRunner(checkpoint, form, **{"num_blocks": NUM_BLOCKS, **options})


class Feeder:
    """Feeds pieces of texts to a runner, with block tables scattered over the whole cache."""

    def __init__(self, runner: TorchRunner, texts: list[NDArray[np.int32]], seed: int = 0) -> None:
        self.runner, self.texts = runner, texts
        width = -(-max(map(len, texts)) // runner.block_size)
        order = np.random.default_rng(seed).permutation(runner.num_blocks)
        self.tables = order[: len(texts) * width].reshape(len(texts), width).astype(np.int32)
        self.lengths = np.zeros(len(texts), dtype=np.int32)
        self.logits = [np.empty((len(t), runner.config.vocab_size), np.float32) for t in texts]

    def step(self, pieces: dict[int, int]) -> None:
        """Run the next ``pieces[s]`` tokens of every sequence s, and keep all their logits."""
        chosen = list(pieces)
        spans = [(s, int(self.lengths[s]), int(self.lengths[s]) + pieces[s]) for s in chosen]
        counts = np.array([end - start for _, start, end in spans])
        batch = StepBatch(
            token_ids=np.concatenate([self.texts[s][start:end] for s, start, end in spans]),
            query_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            context_lens=self.lengths[chosen],
            block_tables=self.tables[chosen],
            logit_rows=np.arange(counts.sum(), dtype=np.int32),
        )
        rows = np.split(self.runner.step(batch), batch.query_starts[1:-1])
        for (s, start, end), part in zip(spans, rows, strict=True):
            self.logits[s][start:end] = part
            self.lengths[s] = end


def texts_of(vocabulary: int, *lengths: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(7)
    return [rng.integers(vocabulary, size=n).astype(np.int32) for n in lengths]


def expected_logits(model: Any, text: NDArray[np.int32]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits = model(torch.from_numpy(text.astype(np.int64))[None]).logits[0]
    return logits.float().numpy()


@pytest.mark.parametrize("overrides", FLAG_GRID + PRUNED_GRID)
def test_mixed_steps_equal_transformers(
    overrides: dict[str, Any], make_checkpoint: MakeCheckpoint
) -> None:
    path, model = make_checkpoint(**overrides)
    texts = texts_of(overrides["vocab_size"], 40, 23, 5)
    feeder = Feeder(make(path), texts)
    feeder.step({0: 17})  # a chunk that ends one past a block
    feeder.step({1: 20, 0: 1})  # a prefill beside a decode
    feeder.step({2: 4, 0: 15, 1: 2})
    feeder.step({0: 7, 1: 1, 2: 1})
    for text, logits in zip(texts, feeder.logits, strict=True):
        np.testing.assert_allclose(logits, expected_logits(model, text), atol=1e-4, rtol=0)


@pytest.mark.parametrize("block_size", [1, 7, 32])
def test_any_block_size(block_size: int, make_checkpoint: MakeCheckpoint) -> None:
    path, model = make_checkpoint(**BASE)
    [text] = texts_of(BASE["vocab_size"], 50)
    feeder = Feeder(make(path, block_size=block_size), [text])
    for count in (1, 33, 16):
        feeder.step({0: count})
    np.testing.assert_allclose(feeder.logits[0], expected_logits(model, text), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_error_is_bounded_by_transformers(
    dtype: str, make_checkpoint: MakeCheckpoint
) -> None:
    import copy

    path, model = make_checkpoint(**BASE)
    [text] = texts_of(BASE["vocab_size"], 30)
    feeder = Feeder(make(path, dtype=dtype), [text])
    feeder.step({0: 29})
    feeder.step({0: 1})
    exact = expected_logits(model, text)
    plain = expected_logits(copy.deepcopy(model).to(getattr(torch, dtype)), text)
    bound = 2 * np.abs(plain - exact).max() + 1e-3
    assert 0 < np.abs(feeder.logits[0] - exact).max() <= bound


def test_only_wanted_rows(make_checkpoint: MakeCheckpoint) -> None:
    path, model = make_checkpoint(**BASE)
    texts = texts_of(BASE["vocab_size"], 6, 9)
    batch = StepBatch(
        token_ids=np.concatenate(texts),
        query_starts=np.array([0, 6, 15], np.int32),
        context_lens=np.zeros(2, np.int32),
        block_tables=np.array([[3, -1], [1, -1]], np.int32),
        logit_rows=np.array([14, 5], np.int32),
    )
    logits = make(path).step(batch)
    assert (logits.shape, logits.dtype) == ((2, BASE["vocab_size"]), np.float32)
    expected = np.stack([expected_logits(model, text)[-1] for text in reversed(texts)])
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_copied_blocks_continue_like_the_original(make_checkpoint: MakeCheckpoint) -> None:
    path, model = make_checkpoint(**BASE)
    [text] = texts_of(BASE["vocab_size"], 40)
    feeder = Feeder(make(path), [text])
    feeder.step({0: 24})
    old = feeder.tables[0].copy()
    feeder.tables[0] = [b for b in range(NUM_BLOCKS) if b not in old][:3]
    pairs = np.stack([old, feeder.tables[0]], axis=1).astype(np.int32)
    feeder.runner.copy_blocks(pairs[:2])
    for cache in (*feeder.runner._keys, *feeder.runner._values):
        cache[old] = torch.nan
    feeder.step({0: 16})
    np.testing.assert_allclose(feeder.logits[0], expected_logits(model, text), atol=1e-4, rtol=0)


def test_make_runner_gives_the_torch_runner(make_checkpoint: MakeCheckpoint) -> None:
    path, _ = make_checkpoint(**BASE)
    common = {"num_threads": None, "num_blocks": 2, "max_batch_tokens": 8, "max_seqs": 2}
    with open_checkpoint(path) as checkpoint:
        runner = make_runner(checkpoint, resolve_format(checkpoint, device="torch:cpu"), **common)
    assert isinstance(runner, TorchRunner)
    assert (runner.num_blocks, runner.max_batch_tokens, runner.max_seqs) == (2, 8, 2)


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises(OptionError, match=message):
        yield


def test_bad_options_are_refused_by_name(make_checkpoint: MakeCheckpoint) -> None:
    path, _ = make_checkpoint(**BASE)
    with refused("dtype = 'int3' is not known"):
        make(path, dtype="int3")
    with refused("device = 'torch:abacus' cannot be had"):
        make(path, device="torch:abacus")
    with refused("block_size = 0"):
        make(path, block_size=0)
    with refused(r"no memory on cpu .* cache of 100000000000 blocks"):
        make(path, num_blocks=10**11)
    if not torch.cuda.is_available():
        with refused("device = 'torch:cuda' cannot be had"):
            make(path, device="torch:cuda")
