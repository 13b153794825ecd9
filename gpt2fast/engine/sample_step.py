"""How the next token of each sequence of a step is chosen, and by whom: the runner, or from logits
that the host asks for."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gpt2fast import _C
from gpt2fast.engine.logprobs import check_finite
from gpt2fast.engine.sequence import Sequence
from gpt2fast.errors import OptionError
from gpt2fast.runners.base import RowSampling
from gpt2fast.sampling_params import SamplingParams

_GREEDY = SamplingParams(temperature=0)
_NO_TOKENS = np.empty(0, np.int32)
_MOST = 2**31 - 1
_LEAST = np.finfo(np.float32).tiny  # a smaller top_p would be 0, which leaves no token


def changes_logits(params: SamplingParams) -> bool:
    """Whether the most likely token can differ from the argmax of the raw logits."""
    return bool(
        params.logit_bias
        or params.min_tokens
        or params.repetition_penalty != 1.0
        or params.presence_penalty
        or params.frequency_penalty
    )


def is_sampled_by_runner(sequence: Sequence, processes_logits: bool) -> bool:
    """Whether the runner's token is the next one. The first tokens of several completions come from
    one row of logits, beams from all that is in theirs, and a text that is scored has none."""
    request = sequence.request
    if not isinstance(request.params, SamplingParams):
        return False
    if request.changes_logits and not processes_logits:
        return False
    return request.params.n == 1 or sequence.num_output > 0


def needs_logits(sequence: Sequence, processes_logits: bool) -> bool:
    """Whether the host looks at the logits of the next token."""
    params = sequence.request.params
    if isinstance(params, SamplingParams) and params.logprobs is not None:
        return True
    return not is_sampled_by_runner(sequence, processes_logits)


def sampling_by_runner(sequences: ReadOnlyList[Sequence], processes_logits: bool) -> RowSampling:
    """How the runner chooses the next token of each; greedily where the host does it instead."""
    params = [
        p
        if isinstance(p := s.request.params, SamplingParams)
        and is_sampled_by_runner(s, processes_logits)
        else _GREEDY
        for s in sequences
    ]
    return _row_sampling(sequences, params)


def sampling_by_host(sequences: ReadOnlyList[Sequence]) -> RowSampling:
    """How the next token of each is chosen from its logits."""
    params = [s.request.params for s in sequences]
    return _row_sampling(sequences, [p for p in params if isinstance(p, SamplingParams)])


def _row_sampling(
    sequences: ReadOnlyList[Sequence], params: ReadOnlyList[SamplingParams]
) -> RowSampling:
    processing: list[_C.LogitsProcessing | None] = []
    if any(s.request.changes_logits for s in sequences):
        processing = [
            None if p is _GREEDY else _processing_of(s)
            for s, p in zip(sequences, params, strict=True)
        ]
    return RowSampling(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([min(max(p.top_k, 0), _MOST) for p in params], np.int32),
        top_p=np.maximum(np.array([p.top_p for p in params], np.float32), _LEAST),
        min_p=np.array([p.min_p for p in params], np.float32),
        seed=np.array([s.request.seed for s in sequences], np.uint64),
        stream=np.array([s.index for s in sequences], np.int32),
        draw=np.array([s.num_output for s in sequences], np.int32),
        processing=processing,
    )


def _processing_of(sequence: Sequence) -> _C.LogitsProcessing | None:
    """What bias, penalties and bans do to a sequence's logits; it has seen all of its tokens."""
    request = sequence.request
    if not request.changes_logits:
        return None
    params = request.params
    assert isinstance(params, SamplingParams)
    if sequence.processing is None:
        sequence.processing = _C.LogitsProcessing(
            bias=list((params.logit_bias or {}).items()),
            repetition=params.repetition_penalty,
            presence=params.presence_penalty,
            frequency=params.frequency_penalty,
            banned=as_array(request.stop_ids) if params.min_tokens else _NO_TOKENS,
            min_tokens=min(params.min_tokens, _MOST),
        )
        prompt = np.array(request.prompt_token_ids, np.int32)
        sequence.processing.see(prompt, False)
        sequence.num_processed = len(prompt)
    new = sequence.token_ids[sequence.num_processed :]
    sequence.processing.see(np.array(new, np.int32), True)
    sequence.num_processed += len(new)
    return sequence.processing


def stop_tokens(sequences: ReadOnlyList[Sequence]) -> NDArray[np.int32]:
    """Those at which the runner had better stop, one of them being at its end perhaps."""
    different = {s.request.stop_ids for s in sequences}
    return as_array(different.pop() if len(different) == 1 else frozenset().union(*different))


@lru_cache(64)
def as_array(tokens: frozenset[int]) -> NDArray[np.int32]:
    """(N,), ascending."""
    return np.array(sorted(tokens), np.int32)


def check_token(token: int) -> int:
    """``token``, as a sampler gave it. Raises ``CheckpointError`` or ``OptionError`` where that is
    why there is none."""
    if token >= 0:
        return token
    if token == _C.NO_TOKEN_LEFT:
        raise OptionError(
            "min_tokens bans the stop tokens, and the model gives no other token a probability; "
            "give min_tokens = 0 or fewer stop_token_ids"
        )
    if token == _C.PROCESSING_OVERFLOW:
        raise OptionError(
            "logit_bias and penalties push a logit beyond float32; bring them closer to their "
            "defaults"
        )
    check_finite(float("nan"))
    raise AssertionError
