"""Whether a model knows the last word of a passage (Paperno et al., "The LAMBADA dataset", 2016,
arXiv:1606.06031), as lm-evaluation-harness' task ``lambada_openai`` asks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import OptionError
from gpt2fast.evaluate.continuation import continuation_window, encode_pair
from gpt2fast.evaluate.scoring import Scorer, Step, nats_of, rows_of
from gpt2fast.evaluate.windows import Window
from gpt2fast.text_files import decode, read_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Passages:
    """Passages of a file, tokenized: each a window whose counted tokens are its last word."""

    file: str
    sha256: str
    windows: tuple[Window, ...]

    @property
    def facts(self) -> dict[str, Any]:
        """What must be known to repeat the measurement."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "protocol": "the word behind the last space, every token of it the most likely one",
            "passages": len(self.windows),
        }


@dataclass(frozen=True)
class LastWords:
    """What the last word of each passage cost, in nats (P,), and whether it was guessed (P,)."""

    nats: NDArray[np.float64]
    correct: NDArray[np.bool_]


def read_passages(file: str | Path, tokenizer: Tokenizer, positions: int) -> Passages:
    """The passages of ``file``: a JSON object a line with its ``text``, or plain text, one a line.

    White space around a passage is dropped, blank lines are passed over. A passage longer than
    ``positions`` tokens loses its beginning. Raises ``OptionError`` naming the line at fault.
    """
    data = read_bytes(file)
    windows: list[Window] = []
    for number, passage in _passages(decode(data, file), file):
        context, space, word = passage.rpartition(" ")
        if not context.strip():
            raise OptionError(f"{file}, line {number}: a passage needs two words or more")
        pair = encode_pair(tokenizer, context, space + word)
        windows.append(continuation_window(*pair, positions, len(windows)))
    if not windows:
        raise OptionError(f"{file} has no passages; give one a line")
    return Passages(str(file), hashlib.sha256(data).hexdigest(), tuple(windows))


def last_words(scorer: Scorer, windows: Iterable[Window], step: Step | None = None) -> LastWords:
    """Score the last words of ``windows``. Raises ``GPT2FastError`` where the model gives NaN."""
    nats, correct = [], []
    for window in windows:
        logits, word = rows_of(scorer, window)
        nats.append(nats_of(logits, word).sum())
        correct.append((logits.argmax(axis=1) == word).all())
        if step is not None:
            step()
    return LastWords(np.array(nats, dtype=np.float64), np.array(correct, dtype=np.bool_))


def _passages(content: str, file: str | Path) -> Iterable[tuple[int, str]]:
    lines = [
        (number, line.strip())
        for number, line in enumerate(content.split("\n"), start=1)
        if line.strip()
    ]
    as_json = bool(lines) and lines[0][1].startswith("{")
    for number, line in lines:
        yield number, _text_of(line, f"{file}, line {number}") if as_json else line


def _text_of(line: str, place: str) -> str:
    try:
        fields = json.loads(line)
    except ValueError:
        raise OptionError(
            f"{place}: is not JSON, as the first line is; give a JSON object in each line"
        ) from None
    text = fields.get("text") if isinstance(fields, dict) else None
    if not isinstance(text, str):
        raise OptionError(f'{place}: has no "text"; give {{"text": "..."}} in each line')
    return text.strip()
