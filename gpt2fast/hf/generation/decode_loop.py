"""Greedy decoding and sampling: transformers' ``_sample`` as a loop over the backend.

Processors, criteria, streamers and the random generator are transformers' and torch's own, so that
the tokens are the same. Saved is the overhead of ``forward`` and of its arguments at each token.
B sequences, T tokens, V vocabulary.
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
from gpt2fast.hf.backend.backend import FloatArray
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.backend.unpad import Unpadding, unpad
from gpt2fast.hf.compat import make_output, pad_token_id
from gpt2fast.hf.generation.fused_sampling import argmax_tokens, fused_sampler
from gpt2fast.hf.generation.multinomial import multinomial
from gpt2fast.hf.generation.processors import ProcessorFn, fast_processors
from gpt2fast.hf.generation.sample_arguments import SampleArguments
from gpt2fast.hf.generation.stopping_criteria import StoppingCriteria
from gpt2fast.hf.generation.token_buffer import TokenBuffer
from gpt2fast.hf.generation.torch_threads import with_one_torch_thread
from gpt2fast.runners import BLOCK_SIZE


@dataclass
class _StepOutputs:
    """Scores and logits of each token for ``return_dict_in_generate``; None if not asked for."""

    config: Any
    scores: tuple[Tensor, ...] | None = field(init=False)
    logits: tuple[Tensor, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        as_dict = self.config.return_dict_in_generate
        self.scores = () if as_dict and self.config.output_scores else None
        self.logits = () if as_dict and self.config.output_logits else None

    @property
    def are_wanted(self) -> bool:
        return self.scores is not None or self.logits is not None

    def append(self, logits: Tensor, scores: Tensor) -> None:
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)

    def to_output(self, ids: Tensor, cache: NativeCache) -> Any:
        """What ``generate`` returns."""
        fields = {"scores": self.scores, "logits": self.logits}
        return make_output(GenerateDecoderOnlyOutput, cache, sequences=ids.clone(), **fields)


def sample(arguments: SampleArguments) -> Any | None:
    """What ``_sample`` returns; None, with nothing changed, if the prompts must run in torch."""
    processors = fast_processors(arguments.processors)
    return with_one_torch_thread(lambda: _sample(arguments, processors))


def _sample(arguments: SampleArguments, processors: list[ProcessorFn]) -> Any | None:
    cache, config = arguments.cache, arguments.config
    unpadding = _unpad_prompts(arguments) if arguments.ids.numel() else None
    if unpadding is None:
        return None
    buffer, outputs = TokenBuffer(arguments.ids), _StepOutputs(config)
    stopping = StoppingCriteria(arguments.criteria)
    runs_all = arguments.needs_finished_rows or not stopping.has_eos
    sampler = None
    if not outputs.are_wanted and arguments.ids.device.type == "cpu":
        sampler = fused_sampler(arguments.processors, processors, config.do_sample)

    def select(logits: FloatArray) -> Any:
        """The next tokens, or the logits that they will be selected from."""
        return logits.copy() if sampler is None else sampler(logits, buffer.length)

    prompts = _to_numpy(arguments.ids[:, cache.past_length :])
    selected: Any = select(cache.run(prompts, unpadding, 1, logits=True)[:, 0])
    room = cache.backend.config.n_positions - int(cache.lengths.max())
    unfinished = np.ones(len(arguments.ids), np.bool_)
    while True:
        if sampler is not None:
            tokens = selected
        else:
            tokens = _process_and_select(arguments, processors, buffer, selected, outputs)
        if stopping.has_eos and not unfinished.all():
            tokens = np.where(unfinished, tokens, pad_token_id(config))
        buffer.append(tokens)
        if arguments.streamer is not None:
            arguments.streamer.put(torch.from_numpy(tokens.copy()))
        unfinished &= ~stopping.is_done(buffer, tokens, outputs.scores)
        tokens = buffer.last  # criteria may have written to it
        if not unfinished.any():
            break
        room -= 1
        if room < 0:
            raise _context_overflow(cache)
        if runs_all or unfinished.all():
            selected = cache.decode(tokens, select)
        else:
            selected = select(_run_unfinished(cache, tokens, unfinished))
    if arguments.streamer is not None:
        arguments.streamer.end()
    if config.return_dict_in_generate:
        return outputs.to_output(buffer.ids, cache)
    return buffer.ids.clone()


def _run_unfinished(
    cache: NativeCache, tokens: NDArray[np.int64], unfinished: NDArray[np.bool_]
) -> FloatArray:
    """Logits (B, V) after one more token (B,), run for ``unfinished`` sequences (B,) alone."""
    unpadding = Unpadding(np.zeros(len(tokens), np.int64), unfinished.astype(np.int64))
    logits = cache.run(tokens[:, None], unpadding, 1, logits=True)[:, 0]
    # One possible token, which is sampled without extra work and then replaced by padding.
    logits[~unfinished], logits[~unfinished, 0] = -np.inf, 0
    return logits


def _process_and_select(
    arguments: SampleArguments,
    processors: list[ProcessorFn],
    buffer: TokenBuffer,
    logits: FloatArray,
    outputs: _StepOutputs,
) -> NDArray[np.int64]:
    """(B,): the next tokens, from logits (B, V) through ``processors``."""
    raw = scores = torch.from_numpy(logits).to(arguments.ids.device)
    with buffer.writable_ids() as ids:
        for process in processors:
            scores = process(ids, scores)
    outputs.append(raw, scores)
    if not arguments.config.do_sample:
        if scores.dtype != torch.float32:
            return cast(NDArray[np.int64], _to_numpy(scores.argmax(dim=-1)))
        return argmax_tokens(_to_numpy(scores))
    return cast(NDArray[np.int64], _to_numpy(multinomial(torch.softmax(scores, dim=-1))))


def _unpad_prompts(arguments: SampleArguments) -> Unpadding | None:
    """The unpadding of the prompts; None if they must run in torch."""
    cache, ids = arguments.cache, _to_numpy(arguments.ids)
    config, past = cache.backend.config, cache.past_length
    if not cache.handles:
        cache.add_sequences(len(ids))
    mask = positions = None
    if arguments.mask is not None:
        mask = _to_numpy(arguments.mask)
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, past:]
        if not bool((mask[:, -1] == 1).all()):
            return None  # right padding: new tokens would follow padding
    if arguments.positions is not None:
        positions = _to_numpy(arguments.positions)
    shape = (len(ids), ids.shape[1] - past)
    unpadding = unpad(shape, mask, positions, cache.starts, cache.lengths, past)
    if isinstance(unpadding, str) or ids.min() < 0 or ids.max() >= config.vocab_size:
        return None
    longest = int((cache.lengths + unpadding.counts).max())
    # When the cache runs full, transformers' loop can continue in torch; this one cannot.
    blocks = len(ids) * (-(-(arguments.config.max_length or 0) // BLOCK_SIZE) + 1)
    fits = blocks <= cache.backend.pool.num_free
    return unpadding if longest <= config.n_positions and fits else None


class _BeyondContextError(ContextOverflowError, IndexError):
    """Also an IndexError, which is what transformers raises here."""


def _context_overflow(cache: NativeCache) -> Exception:
    context = cache.backend.config.n_positions
    return _BeyondContextError(
        f"the text has {context} tokens, which is the model's context; give a smaller "
        "max_new_tokens, or cut the prompt"
    )


def _to_numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
