"""transformers on PyTorch: eager attention, SDPA, and torch.compile with a static cache."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2fast.bench.peers.base import (
    Clock,
    Generated,
    check_format,
    hugging_face_model,
    installed,
    refuse,
    refuse_layers,
)

VARIANTS = ("eager", "sdpa", "compile")


def cache_name(forward: Callable[..., Any]) -> str:
    """What ``forward`` calls the cache. transformers 5.24 renamed it and translates the old name
    with a warning at every call, which would be timed as well."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


class Transformers:
    """The model's forward in a loop of our own: ``generate`` adds 1 to 3 ms of Python a token.

    "compile" does as ``generate`` does with a static cache: the prompt runs uncompiled, the decode
    step is compiled (attention by SDPA) during ``load``, with weights frozen into the graph.
    """

    FORMATS: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")

    def __init__(self, work: Path, variant: str = "sdpa") -> None:
        self._torch: Any = import_module("torch")
        self._api: Any = import_module("transformers")
        self._variant = variant
        self._model: Any = None

    def versions(self) -> dict[str, str]:
        return installed("transformers", "torch")

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        refuse_layers(f"transformers-{self._variant}", checkpoint)
        return checkpoint

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        system = f"transformers-{self._variant}"
        refuse(system, options)
        check_format(system, fmt, self.FORMATS)
        self._torch.set_num_threads(threads)
        attention = "eager" if self._variant == "eager" else "sdpa"
        self._model = hugging_face_model(artifact, fmt, attention)
        self._cache_name = cache_name(self._model.forward)
        parameters = inspect.signature(self._model.transformer.forward).parameters
        self._takes_positions = "cache_position" in parameters
        self._context = context
        self._decode = self._model
        self._static: dict[int, Any] = {}  # by batch size, which is part of a static cache's shape
        if self._variant == "compile":
            inductor: Any = import_module("torch._inductor.config")
            inductor.freezing = True
            self._decode = self._torch.compile(self._model, dynamic=False)
            # Compiled here, as it would be when a service starts; a new batch size compiles again.
            self.generate([[0] * 4] * batch, 3, lambda: 0.0)

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        torch = self._torch
        steps, times = [], []
        cache, length = self._new_cache(len(prompts)), len(prompts[0])
        with torch.inference_mode(self._variant != "compile"), torch.no_grad():
            ids, forward = torch.tensor(prompts), self._model
            for step in range(new_tokens):
                start = length + step - 1 if step else 0
                logits = self._forward(forward, ids, cache, start)
                ids, forward = logits[:, -1:].argmax(dim=-1), self._decode
                steps.append(ids[:, 0].tolist())
                times.append(clock())
        return [list(row) for row in zip(*steps, strict=True)], times

    def _forward(self, forward: Any, ids: Any, cache: Any, start: int) -> Any:
        positions = self._torch.arange(start, start + ids.shape[1])
        options = {self._cache_name: cache}
        if self._takes_positions:
            options["cache_position"] = positions
        return forward(
            input_ids=ids,
            position_ids=positions[None],
            use_cache=True,
            logits_to_keep=1,
            **options,
        ).logits

    def _new_cache(self, batch: int) -> Any:
        if self._variant != "compile":
            return self._api.DynamicCache()
        if batch not in self._static:
            cache = self._api.StaticCache(self._model.config, max_cache_len=self._context)
            self._static[batch] = cache
        else:
            self._static[batch].reset()
        return self._static[batch]

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([list(tokens)])).logits[0]
        return np.asarray(logits.float().numpy())

    def weight_bytes(self) -> int | None:
        skipped = {"transformer.wpe.weight"}
        if not self._model.config.tie_word_embeddings:
            skipped.add("transformer.wte.weight")
        named = self._model.named_parameters()  # a tied head is listed once
        read = [p for name, p in named if name not in skipped]
        return sum(int(p.numel() * p.element_size()) for p in read)

    def kv_bytes_per_token(self) -> int | None:
        config = self._model.config
        return int(2 * config.n_layer * config.n_embd * self._model.dtype.itemsize)

    def close(self) -> None:
        self._model = self._decode = None
        self._static = {}
