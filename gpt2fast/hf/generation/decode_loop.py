"""Greedy decoding and sampling: what transformers' ``_sample`` does, in a loop over the runner.

Processors, criteria, streamers and the random generator are transformers' and torch's own, so that
the tokens are, too. What goes is the work of ``forward`` and its arguments for each token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from gpt2fast.errors import ContextOverflowError
from gpt2fast.hf.backend.backend import Floats
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.backend.unpad import Plan, make_plan
from gpt2fast.hf.compat import output, pad_token
from gpt2fast.hf.generation.fused_sampling import chooser_of, most_likely
from gpt2fast.hf.generation.multinomial import draw
from gpt2fast.hf.generation.processors import Step, has_own, in_one_thread, steps_of
from gpt2fast.hf.generation.token_buffer import Ends, Texts
from gpt2fast.runners import BLOCK_SIZE

_NEEDED = ("input_ids", "logits_processor", "stopping_criteria", "generation_config")
_UNDERSTOOD = {
    *(*_NEEDED, "streamer"),
    *("attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep"),
    *("cache_position", "tokenizer", "assistant_tokenizer", "return_dict"),
}


@dataclass(frozen=True)
class Decoding:
    """What ``_sample`` is called with. ``ids`` (B, T) are the prompts, of which the ``cache`` may
    hold a beginning."""

    ids: Tensor
    mask: Tensor | None  # (B, T)
    positions: Tensor | None  # (B, S): of the columns that the cache does not hold
    cache: NativeCache
    processors: Any
    criteria: Any
    settings: Any
    streamer: Any

    @property
    def outlives(self) -> bool:
        """Whether somebody sees the cache, or logits of texts that have ended, in the end."""
        asked = self.settings.return_dict_in_generate or has_own(self.processors)
        return asked or self.cache.past > 0


@dataclass
class _Kept:
    """What ``return_dict_in_generate`` gives back beside the tokens; None where not asked for."""

    settings: Any
    scores: tuple[Tensor, ...] | None = field(init=False)
    logits: tuple[Tensor, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        as_dict = self.settings.return_dict_in_generate
        self.scores = () if as_dict and self.settings.output_scores else None
        self.logits = () if as_dict and self.settings.output_logits else None

    @property
    def are_wanted(self) -> bool:
        """Whether scores or logits of each token are."""
        return self.scores is not None or self.logits is not None

    def add(self, logits: Tensor, scores: Tensor) -> None:
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)

    def output(self, ids: Tensor, cache: NativeCache) -> Any:
        """What ``generate`` returns."""
        kept = {"scores": self.scores, "logits": self.logits}
        return output(GenerateDecoderOnlyOutput, cache, sequences=ids.clone(), **kept)


def understand(given: dict[str, Any]) -> Decoding | None:
    """What the arguments ``given`` to ``_sample`` ask for; None where transformers' loop has to do
    it."""
    cache, mask = given.get("cache"), given.get("attention_mask")
    if not isinstance(cache, NativeCache) or cache.in_torch or not given.get("use_cache"):
        return None
    others = [each for name, each in given.items() if name not in _UNDERSTOOD]
    if any(each is not None and each is not False for each in others):
        return None
    if any(given.get(name) is None for name in _NEEDED):
        return None  # a release that calls them something else
    ids, settings = given["input_ids"], given["generation_config"]
    if settings.output_attentions or settings.output_hidden_states:
        return None
    if (mask is not None and mask.shape != ids.shape) or cache.past >= ids.shape[1]:
        return None
    if cache.handles and len(cache.handles) != len(ids):
        return None
    positions = given.get("position_ids")
    if positions is not None:
        positions = positions[..., cache.past - ids.shape[1] :]
    processors, criteria = given["logits_processor"], given["stopping_criteria"]
    return Decoding(
        ids, mask, positions, cache, processors, criteria, settings, given.get("streamer")
    )


def sample(asked: Decoding) -> Any | None:
    """What ``_sample`` returns; None, and nothing has happened, where the prompts need torch."""
    steps = steps_of(asked.processors)
    return in_one_thread(lambda: _sample(asked, steps))


def _sample(asked: Decoding, steps: list[Step]) -> Any | None:
    cache, settings = asked.cache, asked.settings
    plan = _first_plan(asked) if asked.ids.numel() else None
    if plan is None:
        return None
    texts, ends, kept = Texts(asked.ids), Ends(asked.criteria), _Kept(settings)
    runs_all = asked.outlives or not ends.has_tokens
    choose = None
    if not kept.are_wanted and asked.ids.device.type == "cpu":
        choose = chooser_of(asked.processors, steps, settings.do_sample)

    def pick(logits: Floats) -> Any:
        """The next tokens, or what they will be chosen from."""
        return logits.copy() if choose is None else choose(logits, texts.length)

    found: Any = pick(cache.run(_numbers(asked.ids[:, cache.past :]), plan, 1, logits=True)[:, 0])
    room = cache.native.config.n_positions - int(cache.lengths.max())
    going = np.ones(len(asked.ids), np.bool_)
    while True:
        tokens = found if choose else _choose(asked, steps, texts, found, kept)
        if ends.has_tokens and not going.all():
            tokens = np.where(going, tokens, pad_token(settings))
        texts.append(tokens)
        if asked.streamer is not None:
            asked.streamer.put(torch.from_numpy(tokens.copy()))
        going &= ~ends.reached(texts, tokens, kept.scores)
        tokens = texts.last
        if not going.any():
            break
        room -= 1
        if room < 0:
            raise _beyond(cache)
        if runs_all or going.all():
            found = cache.decode(tokens, pick)
        else:
            some = Plan(np.zeros(len(tokens), np.int64), going.astype(np.int64))
            logits = cache.run(tokens[:, None], some, 1, logits=True)[:, 0]
            logits[~going], logits[~going, 0] = -np.inf, 0  # of one token, at no cost to the others
            found = pick(logits)
    if asked.streamer is not None:
        asked.streamer.end()
    return kept.output(texts.ids, cache) if settings.return_dict_in_generate else texts.ids.clone()


def _choose(
    asked: Decoding, steps: list[Step], texts: Texts, logits: Floats, kept: _Kept
) -> NDArray[np.int64]:
    """(B,): the next tokens, by the processors of scores (B, V) and by chance."""
    raw = scores = torch.from_numpy(logits).to(asked.ids.device)
    with texts.shown() as ids:
        for step in steps:
            scores = step(ids, scores)
    kept.add(raw, scores)
    if not asked.settings.do_sample:
        if scores.dtype != torch.float32:
            return cast(NDArray[np.int64], _numbers(scores.argmax(dim=-1)))
        return most_likely(_numbers(scores))
    return cast(NDArray[np.int64], _numbers(draw(torch.softmax(scores, dim=-1))))


def _first_plan(asked: Decoding) -> Plan | None:
    cache, config, ids = asked.cache, asked.cache.native.config, _numbers(asked.ids)
    if not cache.handles:
        cache.open(len(ids))
    mask = positions = None
    if asked.mask is not None:
        mask = _numbers(asked.mask)
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, cache.past :]
        if not bool((mask[:, -1] == 1).all()):
            return None  # a text would go on behind padding
    if asked.positions is not None:
        positions = _numbers(asked.positions)
    shape = (len(ids), ids.shape[1] - cache.past)
    plan = make_plan(shape, mask, positions, cache.starts, cache.lengths, cache.past)
    if isinstance(plan, str) or ids.min() < 0 or ids.max() >= config.vocab_size:
        return None
    most = int((cache.lengths + plan.counts).max())
    # Where memory will not do, transformers' loop can go on in torch from any token.
    blocks = len(ids) * (-(-(asked.settings.max_length or 0) // BLOCK_SIZE) + 1)
    fits = blocks <= cache.native.pool.num_free
    return plan if most <= config.n_positions and fits else None


class _BeyondContextError(ContextOverflowError, IndexError):
    """transformers' class for it, with words."""


def _beyond(cache: NativeCache) -> Exception:
    context = cache.native.config.n_positions
    return _BeyondContextError(
        f"the text has {context} tokens, which is the model's context; give a smaller "
        "max_new_tokens, or cut the prompt"
    )


def _numbers(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
