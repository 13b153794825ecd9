"""The arguments of transformers' ``_sample``. B sequences, T tokens of the prompts, V
vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.generation.processors import has_custom

_REQUIRED = ("input_ids", "logits_processor", "stopping_criteria", "generation_config")
_SUPPORTED = {
    *(*_REQUIRED, "streamer"),
    *("attention_mask", "position_ids", "cache", "use_cache", "logits_to_keep"),
    *("cache_position", "tokenizer", "assistant_tokenizer", "return_dict"),
}


@dataclass(frozen=True)
class SampleArguments:
    """What ``_sample`` is called with.

    Args:
        ids: the prompts (B, T), of which ``cache`` may hold the beginning.
        mask: the attention mask (B, T), or None.
        positions: position ids (B, S) of the S columns that are not cached, or None.
        cache: of the prompts.
        processors: logits processors.
        criteria: stopping criteria.
        config: a GenerationConfig.
        streamer: gets the tokens; None if there is none.
    """

    ids: Tensor
    mask: Tensor | None
    positions: Tensor | None
    cache: NativeCache
    processors: Any
    criteria: Any
    config: Any
    streamer: Any

    @property
    def needs_finished_rows(self) -> bool:
        """Whether sequences that have ended must be run on: the caller gets their cache, or custom
        processors their logits."""
        returned = self.config.return_dict_in_generate or has_custom(self.processors)
        return returned or self.cache.past_length > 0


def parse_sample_arguments(arguments: dict[str, Any]) -> SampleArguments | None:
    """``arguments`` of ``_sample`` by the names of ``compat``; None if transformers' loop has to
    run."""
    cache, mask = arguments.get("cache"), arguments.get("attention_mask")
    if not isinstance(cache, NativeCache) or cache.in_torch or not arguments.get("use_cache"):
        return None
    others = [value for name, value in arguments.items() if name not in _SUPPORTED]
    if any(value is not None and value is not False for value in others):
        return None
    if any(arguments.get(name) is None for name in _REQUIRED):
        return None  # a release that has other names for them
    ids, config = arguments["input_ids"], arguments["generation_config"]
    if config.output_attentions or config.output_hidden_states:
        return None
    if (mask is not None and mask.shape != ids.shape) or cache.past_length >= ids.shape[1]:
        return None
    if cache.handles and len(cache.handles) != len(ids):
        return None
    positions = arguments.get("position_ids")
    if positions is not None:
        positions = positions[..., cache.past_length - ids.shape[1] :]
    return SampleArguments(
        ids=ids,
        mask=mask,
        positions=positions,
        cache=cache,
        processors=arguments["logits_processor"],
        criteria=arguments["stopping_criteria"],
        config=config,
        streamer=arguments.get("streamer"),
    )
