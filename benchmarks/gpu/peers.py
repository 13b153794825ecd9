"""transformers on torch: ``generate`` as its users call it, and the fastest form that compiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Tokens = list[list[int]]


class Transformers:
    """``generate`` with a growing cache; attention "eager" or "sdpa".

    Tokens come back when all are there: nothing is waited for in between but by ``generate``.
    """

    def __init__(self, path: Path, dtype: str, device: str, attention: str = "sdpa") -> None:
        self.path, self.dtype, self.device = path, getattr(torch, dtype), device
        self.attention = attention
        self.model: Any = None

    def load(self, length: int) -> None:
        """Ready for sequences of ``length`` tokens."""
        import transformers

        self.length = length
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            self.path,
            dtype=self.dtype,
            attn_implementation=self.attention,
            local_files_only=True,
        )
        self.model = model.to(self.device).eval()
        # No token ends a text, as with ignore_eos of ours: then nothing looks for one either.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def warm(self, batch: int) -> None:
        """Whatever comes before the first step of a batch of this size, compilation included."""
        self.generate([[1] * 16] * batch, 4)
        self.generate([[1] * 16] * batch, 4)

    @torch.no_grad()
    def generate(self, prompts: Tokens, new: int) -> Tokens:
        """``new`` greedy tokens after each of ``prompts``, which are of one length."""
        ids = torch.tensor(prompts, device=self.device)
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            use_cache=True,
            **self._options(len(prompts)),
        )
        found: Tokens = out[:, ids.shape[1] :].tolist()
        return found

    def _options(self, batch: int) -> dict[str, Any]:
        return {}


class CompiledGenerate(Transformers):
    """``generate`` over a static cache: transformers compiles the step by itself, with inductor
    and CUDA graphs.

    One cache for all calls: a new one's addresses would make every call record its graphs again.
    """

    def load(self, length: int) -> None:
        """The caches are exactly as long as the longest text: attention runs over all of it."""
        super().load(length)
        self._caches: dict[int, Any] = {}

    def _options(self, batch: int) -> dict[str, Any]:
        return {"past_key_values": self.cache(batch)}

    def cache(self, batch: int) -> Any:
        """The empty cache for a batch of this size."""
        import transformers

        if batch not in self._caches:
            self._caches[batch] = transformers.StaticCache(
                config=self.model.config, max_cache_len=self.length
            )
        else:
            self._caches[batch].reset()
        return self._caches[batch]


class CompiledLoop(CompiledGenerate):
    """A loop of our own around the compiled step, argmax included: torch.compile at its fastest,
    without what ``generate`` does between steps.

    The prompt runs uncompiled, as in ``generate``.
    """

    def load(self, length: int) -> None:
        """The step is compiled for each size of a batch when it is first met."""
        super().load(length)
        model = self.model

        def step(ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
            logits = model(
                input_ids=ids,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            found: Tensor = logits[:, -1:].argmax(-1)
            return found

        self._step: Callable[..., Tensor] = step
        self._compiled: Callable[..., Tensor] = torch.compile(
            step, mode="reduce-overhead", fullgraph=True, dynamic=False
        )

    @torch.no_grad()
    def generate(self, prompts: Tokens, new: int) -> Tokens:
        """The same."""
        ids = torch.tensor(prompts, device=self.device)
        cache, count = self.cache(len(prompts)), ids.shape[1]
        positions = torch.arange(count, device=self.device)[None]
        found = [self._step(ids, positions, cache)]
        positions = torch.full((1, 1), count, device=self.device)
        for _ in range(new - 1):
            torch.compiler.cudagraph_mark_step_begin()
            # The graph's memory is its own: the next step overwrites it.
            found.append(self._compiled(found[-1], positions, cache).clone())
            positions += 1
        tokens: Tokens = torch.cat(found, 1).tolist()
        return tokens


def make(kind: str, path: Path, options: dict[str, Any]) -> Transformers:
    """A peer by the name of its class."""
    kinds: Sequence[type[Transformers]] = (Transformers, CompiledGenerate, CompiledLoop)
    return {each.__name__: each for each in kinds}[kind](path, **options)
