"""What the engine must produce, computed one request at a time without batches or cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt2fast._C import BlockPool
from gpt2fast.engine.engine import Engine
from gpt2fast.engine.outputs import RequestOutput
from gpt2fast.engine.scoring import build_scoring_request
from gpt2fast.runners.base import StepBatch
from gpt2fast.runners.host_sampling import HostSampling
from gpt2fast.sampling_params import SamplingParams
from support.engine.mock_runner import (
    EOS,
    MockModel,
    MockRunner,
    MockSamplingRunner,
    byte_tokenizer,
)
from support.gumbel_reference import choose, process

MODEL = MockModel()
TOKENIZER = byte_tokenizer()
BY_RUNNER = False  # set by the fixture ``who_chooses``


def make_engine(
    prefix_caching: bool = True, samples: bool | None = None, **runner_options: object
) -> Engine:
    """``samples``: whether the runner chooses tokens itself; None: as ``BY_RUNNER`` says."""
    kind = MockSamplingRunner if (BY_RUNNER if samples is None else samples) else MockRunner
    runner = kind(model=MODEL, **runner_options)  # type: ignore[arg-type]
    pool = BlockPool(runner.num_blocks, runner.block_size, prefix_caching)
    return Engine(runner, pool, TOKENIZER)


def batches_of(engine: Engine) -> list[StepBatch]:
    """What the mock runner of ``engine`` has run."""
    runner = engine.runner
    mock = runner.runner if isinstance(runner, HostSampling) else runner
    assert isinstance(mock, MockRunner)
    return mock.batches


def score(engine: Engine, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits (T, V) after each of ``tokens``; runs the engine until nothing is left."""
    capacity = engine.runner.num_blocks * engine.runner.block_size
    request = build_scoring_request(engine.runner.config, tokens, capacity)
    engine.enqueue(request)
    logits = run(engine)[request.request_id].prompt_logits
    assert logits is not None
    return logits


def run(engine: Engine, max_steps: int = 10_000) -> dict[str, RequestOutput]:
    """Step until nothing is left."""
    outputs: dict[str, RequestOutput] = {}
    for _ in range(max_steps):
        if not engine.has_unfinished():
            return outputs
        outputs.update({output.request_id: output for output in engine.step().finished})
    raise AssertionError("the engine does not come to an end")


def assert_clean(engine: Engine) -> None:
    stats = engine.stats()
    assert stats["sequences"] == stats["used"] == stats["running"] == stats["waiting"] == 0
    assert stats["cached"] + stats["free"] == stats["num_blocks"]


def expected_tokens(
    prompt: Sequence[int], params: SamplingParams, index: int = 0, n_positions: int = 128
) -> list[int]:
    """Output tokens of completion ``index``; stop strings and the context's end are left out."""
    tokens, window_start = list(prompt), 0
    stop = {*params.stop_token_ids, *(() if params.ignore_eos else (EOS,))}
    assert params.max_tokens is not None
    for position in range(params.max_tokens):
        if len(tokens) - window_start > n_positions:
            window_start = len(tokens) - n_positions // 2
        logits = MODEL.logits(tokens[window_start:])
        row = process(logits, params, tokens, len(prompt), sorted(stop))
        tokens.append(choose(row, params, params.seed or 0, index, position))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]
