"""From logits to a token: pure functions over one row of logits, composed by ``sample_row``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.sampling_params import SamplingParams

Logits = NDArray[np.float32]
Weights = NDArray[np.float32]
TokenIds = NDArray[np.int64]

_TOP_P_PREFIXES = (512, 4096)  # candidates that top-p looks at, in turn, before it sorts all
_COLUMNS = 4  # for each candidate wanted: fewer let more through than are wanted
_MOST_ROWS = 64
_SUMS = 4096  # of a running sum at a time: large temporaries go back to the system, page by page
_CDF_BLOCK = 256


def changes_logits(params: SamplingParams) -> bool:
    """Whether the most likely token can differ from the argmax of the raw logits."""
    return bool(
        params.logit_bias
        or params.min_tokens
        or params.repetition_penalty != 1.0
        or params.presence_penalty
        or params.frequency_penalty
    )


def add_bias(logits: Logits, bias: Mapping[int, float]) -> None:
    """Add ``bias[token]`` to ``logits`` (V,), in place."""
    logits[np.fromiter(bias.keys(), np.int64, len(bias))] += np.fromiter(
        bias.values(), np.float32, len(bias)
    )


def penalize_repetition(logits: Logits, tokens: Sequence[int], penalty: float) -> None:
    """Divide positive and multiply negative ``logits`` (V,) of every token seen, in place."""
    seen = np.unique(np.asarray(tokens, dtype=np.int64))
    values = logits[seen]
    factor = np.float32(penalty)
    logits[seen] = np.where(values < 0, values * factor, values / factor)


def penalize_presence_and_frequency(
    logits: Logits, output: Sequence[int], presence: float, frequency: float
) -> None:
    """Subtract ``presence + frequency * count`` of every output token from ``logits``, in place."""
    seen, counts = np.unique(np.asarray(output, dtype=np.int64), return_counts=True)
    logits[seen] -= (presence + frequency * counts).astype(np.float32)


def process_logits(
    logits: Logits, params: SamplingParams, tokens: Sequence[int], num_prompt: int, stop: TokenIds
) -> Logits:
    """``logits`` (V,) after bias, penalties and the ban of ``stop`` before ``min_tokens``; a copy.

    ``tokens`` is the prompt of ``num_prompt`` tokens followed by the output. Raises
    ``OptionError`` where the options leave no finite logit, ``CheckpointError`` where the model
    gives none.
    """
    if not changes_logits(params):
        return logits
    raw, logits = logits, logits.copy()
    if params.logit_bias:
        add_bias(logits, params.logit_bias)
    if params.repetition_penalty != 1.0:
        with np.errstate(over="ignore"):  # what overflowed is refused below
            penalize_repetition(logits, tokens, params.repetition_penalty)
    if params.presence_penalty or params.frequency_penalty:
        output = tokens[num_prompt:]
        presence, frequency = params.presence_penalty, params.frequency_penalty
        penalize_presence_and_frequency(logits, output, presence, frequency)
    if len(tokens) - num_prompt < params.min_tokens:
        logits[stop] = -np.inf
    _check_processed(float(logits.max()), raw)
    return logits


def _check_processed(best: float, raw: Logits) -> None:
    """Refuse processed logits by their largest, ``best``, blaming the model only where it is."""
    if math.isfinite(best):
        return
    check_finite(float(raw.max()))
    if best == -math.inf:
        raise OptionError(
            "min_tokens bans the stop tokens, and the model gives no other token a probability; "
            "give min_tokens = 0 or fewer stop_token_ids"
        )
    raise OptionError(
        "logit_bias and penalties push a logit beyond float32; bring them closer to their defaults"
    )


def prefilter(values: NDArray[np.float32], count: int) -> TokenIds:
    """Ids, ascending, of all ``values`` (V,) from some bound on, at least ``count`` of them.

    The bound is the ``count``-th largest of the maxima of columns: so many columns have a value
    that reaches it. Two passes at the speed of memory, where a selection among all takes ten.
    """
    rows = min(len(values) // (_COLUMNS * count), _MOST_ROWS)
    if rows < 2:
        return np.arange(len(values))
    columns = len(values) // rows
    maxima = values[: rows * columns].reshape(rows, columns).max(axis=0)
    return np.flatnonzero(values >= np.partition(maxima, columns - count)[columns - count])


def keep_top_k(logits: Logits, k: int) -> TokenIds:
    """Ids, ascending, of the ``k`` largest of ``logits`` (V,); ties with the k-th are kept."""
    ids = prefilter(logits, k)
    values = logits[ids]
    kept: TokenIds = ids[values >= np.partition(values, len(values) - k)[len(values) - k]]
    return kept


def first_to_reach(values: Weights, target: float) -> int | None:
    """The first of the running sums of ``values`` (N,), in double precision, that is not below
    ``target``; None where none is."""
    total = 0.0
    for start in range(0, len(values), _SUMS):
        # Converted beforehand: a running sum that converts as it goes is three times slower.
        sums = values[start : start + _SUMS].astype(np.float64)
        sums[0] += total
        np.cumsum(sums, out=sums)
        total = sums[-1]
        if total >= target:
            return start + int(np.searchsorted(sums, target))
    return None


def top_p_threshold(weights: Weights, p: float) -> float:
    """The smallest of the fewest largest ``weights`` (N,) that hold the fraction ``p`` of the sum.

    Only values are sorted, and as a rule only the largest of them.
    """
    target = p * weights.sum(dtype=np.float64)
    for count in _TOP_P_PREFIXES:
        largest = weights[prefilter(weights, min(count, len(weights)))]
        if largest.sum(dtype=np.float64) >= target:
            break
    else:
        largest = weights
    descending = np.sort(largest)[::-1]
    position = first_to_reach(descending, target)
    return float(descending[-1 if position is None else position])


def filtered_distribution(
    logits: Logits, params: SamplingParams
) -> tuple[TokenIds | None, Weights]:
    """Token ids (N,), ascending, that the filters leave, and their weights (N,), unnormalized.

    ``None`` for the ids means the whole vocabulary. Tokens that tie with the last one kept by top-k
    or top-p are kept too.
    """
    ids: TokenIds | None = None
    if 0 < params.top_k < len(logits):
        ids = keep_top_k(logits, params.top_k)
        logits = logits[ids]
    # Subtracting the maximum before the division keeps tiny temperatures finite.
    with np.errstate(over="ignore"):
        weights = logits - logits.max()
        weights /= np.float32(max(params.temperature, 1e-30))
    np.exp(weights, out=weights)
    threshold = 0.0
    if params.top_p < 1.0:
        threshold = top_p_threshold(weights, params.top_p)
    # The largest weight is exp(0) = 1.
    threshold = max(threshold, params.min_p)
    if threshold > 0.0:
        kept = np.flatnonzero(weights >= np.float32(threshold))
        ids, weights = (kept if ids is None else ids[kept]), weights[kept]
    return ids, weights


def invert_cdf(weights: Weights, u: float) -> int:
    """The index drawn by the uniform ``u`` in [0, 1) from unnormalized ``weights`` (N,).

    In two levels, first among sums of _CDF_BLOCK weights: a running sum over a whole vocabulary
    costs more than the exponentials.
    """
    wide = weights.astype(np.float64)
    starts = np.arange(0, len(wide), _CDF_BLOCK)
    cdf = np.cumsum(np.add.reduceat(wide, starts))
    target = u * cdf[-1]
    block = _first_above(cdf, target)
    if block:
        target -= cdf[block - 1]
    start = int(starts[block])
    return start + _first_above(np.cumsum(wide[start : start + _CDF_BLOCK]), target)


def _first_above(cdf: NDArray[np.float64], target: float) -> int:
    index = int(np.searchsorted(cdf, target, side="right"))
    # Rounding can lift the target to the total: the last entry of positive weight is meant.
    return index if index < len(cdf) else int(np.searchsorted(cdf, cdf[-1]))


def sample_row(logits: Logits, params: SamplingParams, u: float) -> int:
    """The token drawn by the uniform ``u`` from processed ``logits`` (V,); argmax at temperature 0.

    Raises ``CheckpointError`` when the logits are not numbers.
    """
    best = int(logits.argmax())
    check_finite(float(logits[best]))
    if params.temperature == 0.0:
        return best
    ids, weights = filtered_distribution(logits, params)
    index = invert_cdf(weights, u)
    return index if ids is None else int(ids[index])


def check_finite(best_logit: float) -> None:
    """Refuse a row by its largest logit: argmax prefers NaN, so one look finds any of them."""
    if not math.isfinite(best_logit):
        raise CheckpointError(
            f"the model's largest logit is {best_logit}: its weights are damaged, or its "
            "activations overflow the dtype; check the checkpoint or use dtype='float32'"
        )


def top_logprobs(logits: Logits, token: int, count: int) -> list[tuple[int, float, int]]:
    """(token, log p, rank) of ``token``, then of the ``count`` most likely, perhaps it among them.

    From raw ``logits`` (V,); rank 1 is the most likely.
    """
    log_sum = log_sum_exp(logits)
    rank = int(np.count_nonzero(logits > logits[token])) + 1
    found = [(token, float(logits[token]) - log_sum, rank)]
    if count:
        top = keep_top_k(logits, min(count, len(logits)))
        best_first = top[np.argsort(-logits[top], kind="stable")][:count].tolist()
        found += [
            (other, float(logits[other]) - log_sum, rank)
            for rank, other in enumerate(best_first, start=1)
        ]
    return found


def log_sum_exp(logits: Logits) -> float:
    """log of the sum of exp over ``logits`` (V,), the sum in double precision."""
    best = logits.max()
    return float(best) + math.log(float(np.exp(logits - best).sum(dtype=np.float64)))
