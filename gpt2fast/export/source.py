"""What an export is made from: the directory of the weights, and what the model makes of a text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.config import ModelConfig
from gpt2fast.engine.llm import LLM
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.files.atomic import scratch_directory
from gpt2fast.sampling_params import SamplingParams

_TOKENS = 192


@dataclass(frozen=True)
class Source:
    """A model that has run and is closed again: two of its size are more than a machine may hold.

    Attributes:
        path: the directory whose weights go into the graph.
        digest: SHA-256 of the weights that the user gave.
        precision: of the graph.
        config: of the model.
        tokens: (T,), a text that the model has drawn.
        logits: (T, V), what it makes of it.
    """

    path: Path
    digest: str
    precision: str
    config: ModelConfig
    tokens: NDArray[np.int64]
    logits: NDArray[np.float32]


@contextmanager
def open_source(
    model: str | os.PathLike[str],
    precision: str,
    out: Path,
    *,
    num_threads: int | None = None,
    revision: str | None = None,
) -> Iterator[Source]:
    """The source of an export in ``precision``; what is rounded for it is beside ``out`` meanwhile.

    Raises OptionError for a precision other than that of the integers which ``model`` has.
    """
    with open_checkpoint(model, revision=revision) as checkpoint:
        path, stored = checkpoint.path, checkpoint.quantization
        digest = weights_digest(checkpoint)
    if checkpoint.config.n_positions < 2:
        raise UnsupportedError(f"{path}: a context of one token leaves nothing to verify")
    wanted = "fp32" if precision == "auto" else precision
    if stored is not None:
        wanted = "int4" if stored.blocks.name in ("int3", "int4") else "int8"
        if precision not in ("auto", wanted):
            raise OptionError(
                f"precision = {precision!r}, but {path} is stored in {stored.name}; leave it out, "
                "or give the float checkpoint"
            )
    is_rounded = stored is None and wanted in ("int8", "int4")
    with scratch_directory(out) as folder:
        scheme = wanted if is_rounded else None
        with LLM(path, device="cpu", quantization=scheme, num_threads=num_threads) as llm:
            if is_rounded:
                path = folder / "model"
                llm.save_quantized(path)
            tokens = _own_text(llm)
            source = Source(path, digest, wanted, llm.config, tokens, llm.logits(tokens.tolist()))
        del llm
        yield source


def _own_text(llm: LLM) -> NDArray[np.int64]:
    """Tokens that the model draws, from the end of a text on."""
    known = [token for token in llm.config.eos_token_ids if token < llm.config.vocab_size]
    start = next(iter(known), 0)
    length = min(_TOKENS, llm.config.n_positions) - 1
    params = SamplingParams(temperature=1.0, max_tokens=length, seed=0, ignore_eos=True)
    output = llm.generate([start], params)[0].outputs[0]
    return np.array([start, *output.token_ids], np.int64)
