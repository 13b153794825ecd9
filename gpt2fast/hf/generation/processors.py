"""transformers' logits processors with less overhead a token. B sequences, T tokens, V
vocabulary."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    TopPLogitsWarper,
)

from gpt2fast.hf.generation.torch_threads import with_all_torch_threads

ProcessorFn = Callable[[Tensor, Tensor], Tensor]  # ids (B, T), scores (B, V) -> scores (B, V)
_TRANSFORMERS = "transformers."
_MAX_SORTED = 1024  # finite scores of a row, above which top-p is left to transformers
_SUM_LANES = 64  # a multiple of the number of partial sums in torch's softmax


def has_custom(processors: Any) -> bool:
    """Whether one of the ``processors``, or criteria, is not a class of transformers."""
    return any(map(_is_custom, processors))


def _is_custom(processor: Any) -> bool:
    return not type(processor).__module__.startswith(_TRANSFORMERS)


def fast_processors(processors: Any) -> list[ProcessorFn]:
    """Functions to call one after the other in place of ``processors``. LogitsProcessorList
    inspects the signature of each processor at each token."""
    if type(processors) is not LogitsProcessorList:
        return [processors]
    if any(len(inspect.signature(each.__call__).parameters) > 2 for each in processors):
        return [processors]  # raises the error about the missing arguments
    return [
        _with_threads(each) if _is_custom(each) else _FAST.get(type(each), _unchanged)(each)
        for each in processors
    ]


def _unchanged(processor: Any) -> ProcessorFn:
    return cast(ProcessorFn, processor)


def _with_threads(processor: Any) -> ProcessorFn:
    def process(ids: Tensor, scores: Tensor) -> Tensor:
        return cast(Tensor, with_all_torch_threads(processor, ids, scores))

    return process


class MinLengthProcessor:
    """``MinLengthLogitsProcessor`` or ``MinNewTokensLengthLogitsProcessor``: masks the EOS tokens
    until a sequence is long enough. transformers' version compares the whole vocabulary with
    them."""

    def __init__(self, processor: Any) -> None:
        counts_new = type(processor) is MinNewTokensLengthLogitsProcessor
        minimum = processor.min_new_tokens if counts_new else processor.min_length
        self._min_length = minimum + (processor.prompt_length_to_skip if counts_new else 0)
        self._eos_tokens = processor.eos_token_id.tolist()

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        self.mask_eos(ids.shape[1], scores)
        return scores

    def mask_eos(self, length: int, scores: Any) -> None:
        """In place, for sequences of ``length``; scores (B, V) are torch's or numpy's."""
        if length < self._min_length:
            scores[:, [eos for eos in self._eos_tokens if 0 <= eos < scores.shape[1]]] = -torch.inf


def top_p_mask(finite: Tensor, warper: Any, size: int) -> Tensor | None:
    """(N,): which of a row's scores ``warper``, a TopPLogitsWarper, keeps. ``finite`` (N,) are the
    scores that are not -inf, ascending, of a row of ``size``. None if two are equal: their order
    then depends on the sort."""
    if bool((finite[1:] == finite[:-1]).any()):
        return None
    cumulative = softmax_tail(finite, size).cumsum(dim=-1)
    kept: Tensor = cumulative > 1 - warper.top_p
    kept[-warper.min_tokens_to_keep :] = True
    return kept


def softmax_tail(finite: Tensor, size: int) -> Tensor:
    """(N,): the last N values of ``torch.softmax`` over ``size`` scores, bit for bit, where the
    last N are ``finite`` and all others -inf.

    The order of a sum decides its last bit. torch adds partial sums, whose number divides
    _SUM_LANES: dropping a multiple of that many -inf leaves each score in its partial sum.
    """
    scores = finite.new_full((size - (size - len(finite)) // _SUM_LANES * _SUM_LANES,), -torch.inf)
    scores[-len(finite) :] = finite
    return torch.softmax(scores, dim=-1)[-len(finite) :]


def _fast_top_p(warper: Any) -> ProcessorFn:
    """``warper``, a TopPLogitsWarper, sorting only finite scores: after top-k they are few."""

    def process(ids: Tensor, scores: Tensor) -> Tensor:
        is_finite = scores != -torch.inf
        columns = [row.nonzero()[:, 0] for row in is_finite]
        are_few = all(warper.min_tokens_to_keep <= len(each) <= _MAX_SORTED for each in columns)
        if not (are_few and bool((scores.isfinite() == is_finite).all())):
            return cast(Tensor, warper(ids, scores))
        warped = torch.full_like(scores, warper.filter_value)
        for row, result, column in zip(scores, warped, columns, strict=True):
            finite, order = torch.sort(row[column])
            kept = top_p_mask(finite, warper, len(row))
            if kept is None:
                return cast(Tensor, warper(ids, scores))
            result[column[order[kept]]] = finite[kept]
        return warped

    return process


_FAST: dict[type, Callable[[Any], ProcessorFn]] = {
    MinLengthLogitsProcessor: MinLengthProcessor,
    MinNewTokensLengthLogitsProcessor: MinLengthProcessor,
    TopPLogitsWarper: _fast_top_p,
}
