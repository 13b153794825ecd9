"""What a step gives for each sequence, and how its next token comes out of it."""

from __future__ import annotations

from typing import NamedTuple

from gpt2fast.engine.batch import Chunk, assemble
from gpt2fast.engine.block_pool import BlockPool
from gpt2fast.engine.flight import Pilot, is_drawn_by_runner, row_sampling
from gpt2fast.engine.rng import uniform
from gpt2fast.engine.sampler import Logits, check_finite, process_logits, sample_row
from gpt2fast.engine.sequence import Sequence
from gpt2fast.runners.base import Runner
from gpt2fast.sampling_params import SamplingParams


class Row(NamedTuple):
    """The token that the runner has chosen, or else the logits (V,) to choose it from."""

    logits: Logits | None
    token: int | None

    @property
    def known(self) -> Logits:
        """The logits, where the runner chose no token."""
        assert self.logits is not None
        return self.logits


def run_chunks(
    chunks: list[Chunk], runner: Runner, pilot: Pilot | None, pool: BlockPool
) -> list[Row]:
    """One step of ``runner``; a row for each chunk that completes. ``pilot`` has the same runner,
    if it is one that chooses tokens."""
    batch = assemble(chunks, pool, runner.block_size)
    completed = [chunk.sequence for chunk in chunks if chunk.completes]
    drawn = [pilot is not None and is_drawn_by_runner(each) for each in completed]
    if pilot is None or not any(drawn):
        return [Row(logits, None) for logits in runner.step(batch)]
    sampling = row_sampling(completed)
    if all(drawn):
        tokens = pilot.runner.sample(batch, sampling).wait()[:, 0]
        return [Row(None, token) for token in tokens.tolist()]
    logits, tokens = pilot.runner.step_and_sample(batch, sampling)
    return [
        Row(row, token if mine else None)
        for row, token, mine in zip(logits, tokens.tolist(), drawn, strict=True)
    ]


def checked_token(token: int) -> int:
    """A token that a runner chose. Raises CheckpointError where its logits were no numbers."""
    if token < 0:
        check_finite(float("nan"))
    return token


def choose_token(sequence: Sequence, row: Logits) -> int:
    """The next token from the raw logits ``row`` (V,)."""
    request = sequence.request
    if request.is_greedy:
        token = int(row.argmax())
        check_finite(float(row[token]))
        return token
    params = request.params
    assert isinstance(params, SamplingParams)
    row = process_logits(row, params, sequence.token_ids, sequence.num_prompt, request.banned_early)
    draw = 0.0
    if params.temperature:
        draw = uniform(request.seed, sequence.index, sequence.num_output)
    return sample_row(row, params, draw)
