"""What an export is made from: the weights, and what the model makes of a text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.checkpoint.tensor_source import TensorSource
from gpt2fast.engine.llm import LLM
from gpt2fast.errors import OptionError, UnsupportedError
from gpt2fast.export.rounded import RoundedWeights
from gpt2fast.sampling_params import SamplingParams

_TOKENS = 192


@dataclass(frozen=True)
class Source:
    """A model that has run, and its weights. These are to be closed before another program loads
    what was made of them: two models of one size are more than a machine may hold.

    Attributes:
        path: the directory of the model.
        digest: SHA-256 of the weights in it.
        precision: of the graph.
        weights: what goes into the graph, rounded where ``path`` has floats and it has integers.
        tokens: (T,), a text that the model has drawn.
        logits: (T, V), what it makes of it.
    """

    path: Path
    digest: str
    precision: str
    weights: TensorSource
    tokens: NDArray[np.int64]
    logits: NDArray[np.float32]


@contextmanager
def open_source(
    model: str | os.PathLike[str],
    precision: str,
    *,
    num_threads: int | None = None,
    revision: str | None = None,
) -> Iterator[Source]:
    """The source of an export in ``precision``; its weights are closed at the end.

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
    with ExitStack() as stack:
        scheme = wanted if is_rounded else None
        llm = stack.enter_context(
            LLM(path, device="cpu", quantization=scheme, num_threads=num_threads)
        )
        tokens = _own_text(llm)
        logits = llm.logits(tokens.tolist())
        weights: TensorSource
        if is_rounded:
            weights = RoundedWeights(llm)
        else:
            llm.close()
            weights = open_checkpoint(path)
        del llm
        stack.callback(weights.close)
        yield Source(path, digest, wanted, weights, tokens, logits)


def _own_text(llm: LLM) -> NDArray[np.int64]:
    """Tokens that the model draws, from the end of a text on."""
    known = [token for token in llm.config.eos_token_ids if token < llm.config.vocab_size]
    start = next(iter(known), 0)
    length = min(_TOKENS, llm.config.n_positions) - 1
    params = SamplingParams(temperature=1.0, max_tokens=length, seed=0, ignore_eos=True)
    output = llm.generate([start], params)[0].outputs[0]
    return np.array([start, *output.token_ids], np.int64)
