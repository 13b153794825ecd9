"""Text that passes may look at: windows of the user's, or text that the model itself writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.engine.llm import LLM
from gpt2fast.errors import OptionError
from gpt2fast.sampling_params import SamplingParams
from gpt2fast.train.corpus import Document, read_documents
from gpt2fast.train.data import tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_SEED = 2**63
_AT_ONCE = 32  # windows that are written together


@dataclass(frozen=True, eq=False)
class Calibration:
    """Windows of token ids, and where they come from."""

    windows: NDArray[np.int64]  # (N, T)
    origin: str  # for the report

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows."""
        return int(self.windows.size)


def read_calibration(
    files: Sequence[str],
    tokenizer: Tokenizer,
    windows: int,
    length: int,
    seed: int,
    end_of_text: int | None = None,
) -> Calibration:
    """``windows`` windows of ``length`` tokens of the user's text, drawn without overlap; all there
    are where the text has fewer.

    ``files``: files, directories and globs. Raises OptionError naming one that is missing or not
    text, and for text that is shorter than a window.
    """
    return draw(read_documents(files), tokenizer, windows, length, seed, end_of_text, files)


def draw(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    windows: int,
    length: int,
    seed: int,
    end_of_text: int | None,
    names: Sequence[str],
) -> Calibration:
    """Windows of ``documents``, each ended by ``end_of_text``; ``names`` says where they are from.
    Raises OptionError as ``read_calibration`` does."""
    _check(windows, length)
    tokens = tokenize(tokenizer, documents, end_of_text)
    if len(tokens) < length:
        raise OptionError(
            f"{', '.join(names)}: {len(tokens)} tokens of calibration text are fewer than a window "
            f"of {length}; give more text"
        )
    rng = np.random.default_rng(seed)
    offset = int(rng.integers(len(tokens) % length + 1))
    order = rng.permutation((len(tokens) - offset) // length)[:windows]
    rows = tokens[offset : offset + len(tokens) // length * length].reshape(-1, length)[order]
    return Calibration(rows.astype(np.int64), f"{', '.join(names)}, seed {seed}")


def generate_calibration(
    source: str | os.PathLike[str],
    windows: int,
    length: int,
    seed: int,
    temperature: float = 1.0,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Text that the model in ``source`` writes itself: ``windows`` continuations of its end-of-text
    token, or of random tokens where it has none, sampled up to ``length`` tokens.

    A function of the seed alone, on one instruction set. ``progress`` is told how many windows of
    how many are written. Raises OptionError for a window beyond the
    model's context.
    """
    _check(windows, length)
    with LLM(source, num_threads=num_threads, max_batch_tokens=512) as llm:
        config = llm.config
        if length > config.n_positions:
            raise OptionError(
                f"windows of {length} tokens exceed the context of {config.n_positions}"
            )
        start = next(iter(config.eos_token_ids), config.bos_token_id)
        rng = np.random.default_rng(seed)
        first = rng.integers(config.vocab_size, size=windows)
        seeds = rng.integers(_MAX_SEED, size=windows)
        known = start is not None and start < config.vocab_size
        prompts = [[start if known and start is not None else int(token)] for token in first]
        if length == 1:
            return Calibration(np.array(prompts, dtype=np.int64), f"own text, seed {seed}")
        params = [
            SamplingParams(
                temperature=temperature, max_tokens=length - 1, ignore_eos=True, seed=int(each)
            )
            for each in seeds
        ]
        outputs = []
        for first_row in range(0, windows, _AT_ONCE):
            part = slice(first_row, first_row + _AT_ONCE)
            outputs += llm.generate(prompts[part], params[part])
            progress(len(outputs), windows)
    rows = [
        [*prompt, *output.outputs[0].token_ids]
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    return Calibration(np.array(rows, dtype=np.int64), f"own text, seed {seed}")


def _check(windows: int, length: int) -> None:
    if windows < 1 or length < 1:
        raise OptionError(
            f"{windows} calibration windows of {length} tokens: at least 1 of 1 is needed"
        )
