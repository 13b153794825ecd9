"""transformers' logits processors, called with less between them."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    TopPLogitsWarper,
)

from gpt2fast.hf.backend.fork_safe_lock import Lock

T = TypeVar("T")
Step = Callable[[Tensor, Tensor], Tensor]
_THEIRS = "transformers."
_FEW = 1024  # scores that are worth sorting alone
_LANES = 64

# torch's threads, as calls that are under way found them: each with its thread, which is not alive
# in a forked child.
_LOCK = Lock()
_UNDER_WAY: list[tuple[threading.Thread, int]] = []


def has_own(processors: Any) -> bool:
    """Whether one of the ``processors`` is not of transformers."""
    return any(map(_is_own, processors))


def _is_own(processor: Any) -> bool:
    return not type(processor).__module__.startswith(_THEIRS)


def in_one_thread(call: Callable[[], T]) -> T:
    """What ``call`` returns, with one thread for torch. Others spin for milliseconds after each
    operation, and keep the runner's from their cores.

    Not a context manager: Ctrl-C can come where its ``__exit__`` begins, and stop that. What a
    ``finally`` calls first is called.
    """
    with _LOCK.rlock:
        before, others = torch.get_num_threads(), [n for each, n in _UNDER_WAY if each.is_alive()]
        if before == 1 and others:  # that is from a call in another thread
            before = others[0]
        mine = (threading.current_thread(), before)
    try:
        _UNDER_WAY.append(mine)
        torch.set_num_threads(1)
        return call()
    finally:
        try:
            torch.set_num_threads(before)
        finally:
            _forget(mine)


def _forget(mine: tuple[threading.Thread, int]) -> None:
    with _LOCK.rlock:
        if mine in _UNDER_WAY:
            _UNDER_WAY.remove(mine)


def in_all_threads(call: Callable[..., T], *args: Any) -> T:
    """What ``call`` returns, within ``in_one_thread`` with as many as before: for code of the
    user's own, which may count on them."""
    here = threading.current_thread()
    torch.set_num_threads([count for each, count in _UNDER_WAY if each is here][-1])
    found = call(*args)
    torch.set_num_threads(1)  # behind an error in_one_thread has the last word
    return found


def steps_of(processors: Any) -> list[Step]:
    """What to call one after another with ids (B, T) and scores (B, V). The list of transformers
    looks at the arguments of each for each token."""
    if type(processors) is not LogitsProcessorList:
        return [processors]
    if any(len(inspect.signature(each.__call__).parameters) > 2 for each in processors):
        return [processors]  # it says what is missing
    return [
        _with_threads(each) if _is_own(each) else _OURS.get(type(each), _same)(each)
        for each in processors
    ]


def _same(processor: Any) -> Step:
    return cast(Step, processor)


def _with_threads(processor: Any) -> Step:
    def step(ids: Tensor, scores: Tensor) -> Tensor:
        return cast(Tensor, in_all_threads(processor, ids, scores))

    return step


class Least:
    """A processor that bars the tokens that end texts, until there are enough others. transformers'
    asks of each token of the vocabulary whether it is one of them."""

    def __init__(self, processor: Any) -> None:
        is_of_new = type(processor) is MinNewTokensLengthLogitsProcessor
        least = processor.min_new_tokens if is_of_new else processor.min_length
        self._length = least + (processor.prompt_length_to_skip if is_of_new else 0)
        self._ends = processor.eos_token_id.tolist()

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        self.bar(ids.shape[1], scores)
        return scores

    def bar(self, length: int, scores: Any) -> None:
        """The same in place, for texts of ``length``; scores (B, V) of torch or numpy."""
        if length < self._length:
            scores[:, [end for end in self._ends if 0 <= end < scores.shape[1]]] = -torch.inf


def nucleus(some: Tensor, warper: Any, size: int) -> Tensor | None:
    """Which of the scores ``some`` (N,), ascending, ``warper`` keeps, all others of (size,) being
    -inf; None where two are equal, whose order is a sort's affair."""
    if bool((some[1:] == some[:-1]).any()):
        return None
    sums = softmax_at_end(some, size).cumsum(dim=-1)
    stays: Tensor = sums > 1 - warper.top_p
    stays[-warper.min_tokens_to_keep :] = True
    return stays


def softmax_at_end(some: Tensor, size: int) -> Tensor:
    """(N,): what ``torch.softmax`` of scores (size,) gives the last of them, ``some`` (N,), all
    others being -inf.

    A sum's order decides about its last bit. torch adds up lanes, whose number divides _LANES:
    without so many of those that are -inf, all others stay in their lanes.
    """
    scores = some.new_full((size - (size - len(some)) // _LANES * _LANES,), -torch.inf)
    scores[-len(some) :] = some
    return torch.softmax(scores, dim=-1)[-len(some) :]


def _top_p(warper: Any) -> Step:
    """``warper``, where most of the scores are out already, as behind top-k: without sorting
    those."""

    def step(ids: Tensor, scores: Tensor) -> Tensor:
        is_in = scores != -torch.inf
        found = [row.nonzero()[:, 0] for row in is_in]
        are_few = all(warper.min_tokens_to_keep <= len(each) <= _FEW for each in found)
        if not (are_few and bool((scores.isfinite() == is_in).all())):
            return cast(Tensor, warper(ids, scores))
        kept = torch.full_like(scores, warper.filter_value)
        for row, result, places in zip(scores, kept, found, strict=True):
            some, order = torch.sort(row[places])
            stays = nucleus(some, warper, len(row))
            if stays is None:
                return cast(Tensor, warper(ids, scores))
            result[places[order[stays]]] = some[stays]
        return kept

    return step


_OURS: dict[type, Callable[[Any], Step]] = {
    MinLengthLogitsProcessor: Least,
    MinNewTokensLengthLogitsProcessor: Least,
    TopPLogitsWarper: _top_p,
}
