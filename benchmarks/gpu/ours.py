"""gpt2fast in the suite: ``LLM.generate`` on token ids, and what its decode loop asks of CUDA."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from gpt2fast import LLM, SamplingParams

Tokens = list[list[int]]

_MOST_SEQUENCES, _CACHED_TOKENS, _STEP_TOKENS = 128, 20_480, 2048
_SHORT, _LONG = 64, 128
_RUNTIME = re.compile(r"cu(da)?[A-Z]\w*")
_WAITS = re.compile(r"\w+Synchronize|cudaMemcpy|cudaMemcpy2D|cudaMemset")
_ALLOCATIONS = re.compile(r"cuda(Malloc|Free|HostAlloc|HostRegister)\w*|cuMem(Alloc|Create|Map)\w*")


class Ours:
    """A loaded ``LLM``; ``options`` are its own, dtype or quantization."""

    def __init__(self, path: Path, device: str, **options: Any) -> None:
        self.path, self.options = path, {"device": device, **options}

    def load(self, length: int) -> None:
        """Ready for 128 sequences."""
        self.llm = LLM(
            self.path,
            max_seqs=_MOST_SEQUENCES,
            kv_cache_tokens=_CACHED_TOKENS,
            max_batch_tokens=_STEP_TOKENS,
            prefix_caching=False,
            **self.options,
        )

    def warm(self, batch: int) -> None:
        """Whatever comes before the first step of a batch of this size, compilation included."""
        self.generate([[1] * 16] * batch, 4)
        self.generate([[1] * 16] * batch, 4)

    def generate(self, prompts: Tokens, new: int) -> Tokens:
        """``new`` greedy tokens after each of ``prompts``."""
        params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
        return [list(out.outputs[0].token_ids) for out in self.llm.generate(prompts, params)]

    def profile(self) -> dict[str, Any]:
        """Calls a token to CUDA's runtime and driver, and allocations of torch's a token.

        Of each the difference between a run of 128 tokens and one of 64, so that what a request
        costs once is not in it.
        """
        prompt = [[1] * 16]
        for new in (_SHORT, _LONG):
            self.generate(prompt, new)
        tokens = _LONG - _SHORT
        short, long = (self._allocated(prompt, new) for new in (_SHORT, _LONG))
        growth = {name: (long[name] - short[name]) / tokens for name in long}
        few, many = (self._runtime_calls(prompt, new) for new in (_SHORT, _LONG))
        if not many:
            raise RuntimeError("the profiler recorded no calls to CUDA; nothing can be said")
        each = {name: (many[name] - few[name]) / tokens for name in sorted(many | few)}
        return {
            "calls_a_token": {name: count for name, count in each.items() if count},
            "waits_a_token": sum(n for name, n in each.items() if _WAITS.fullmatch(name)),
            "cuda_allocations_a_token": sum(
                n for name, n in each.items() if _ALLOCATIONS.fullmatch(name)
            ),
            "torch_allocations_a_token": growth["allocation.all.allocated"],
            "memory_stats_a_token": growth,
            "events": sum(many.values()),
        }

    def _allocated(self, prompt: Tokens, new: int) -> Counter[str]:
        names = ("allocation.all.allocated", "num_alloc_retries", "num_device_alloc")
        before = torch.cuda.memory_stats()
        self.generate(prompt, new)
        after = torch.cuda.memory_stats()
        return Counter({name: after.get(name, 0) - before.get(name, 0) for name in names})

    def _runtime_calls(self, prompt: Tokens, new: int) -> Counter[str]:
        kinds = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
            self.generate(prompt, new)
            torch.cuda.synchronize()
        found: Counter[str] = Counter()
        for event in profile.key_averages():
            if _RUNTIME.fullmatch(event.key):
                found[event.key] += event.count
        return found
