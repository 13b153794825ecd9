"""The text of a compression, in three parts that have nothing in common: passes look at the first,
recipes are chosen by the second, and the artifact is verified on the third.

Windows are (N, T) token ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.compress.calibration import Calibration, generate_calibration
from gpt2fast.errors import OptionError
from gpt2fast.train.corpus import Document, read_documents
from gpt2fast.train.data import tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHARES = {"calibration": 0.5, "selection": 0.2, "verification": 0.3}  # of each document's tokens
LEAST_WINDOWS = 8  # of a part: fewer tell too little
_WHOLE_DOCUMENTS = 24  # from so many on a document goes to one part as a whole

Windows = NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """How much text is used, if there is as much."""

    length: int = 256  # T: tokens of a window
    calibration: int = 128  # windows
    selection: int = 64
    verification: int = 128

    def of(self, part: str) -> int:
        """Windows of ``part``."""
        return int(getattr(self, part))


@dataclass(frozen=True, eq=False)
class Texts:
    """The three parts, and where they come from."""

    parts: dict[str, Windows]
    origin: str

    @property
    def calibration(self) -> Calibration:
        """What passes may look at."""
        return Calibration(self.parts["calibration"], self.origin)

    @property
    def key(self) -> str:
        """A name for exactly these windows, twelve hexadecimal digits."""
        digest = hashlib.sha256()
        for name, windows in sorted(self.parts.items()):
            digest.update(f"{name}{windows.shape}".encode())
            digest.update(np.ascontiguousarray(windows, dtype="<i8").tobytes())
        return digest.hexdigest()[:12]

    def facts(self) -> dict[str, object]:
        """For the report."""
        counts = {
            f"{name}_tokens": int(windows[:, 1:].size) for name, windows in self.parts.items()
        }
        return {"origin": self.origin, "key": self.key, **counts}


def split_texts(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    end_of_text: int | None,
    sizes: Sizes,
    verify_paths: Sequence[str] = (),
) -> Texts:
    """Read files and share them out. ``verify_paths`` are verified on instead of a share.

    Raises OptionError that names a file that cannot be read, or says how much text is missing.
    """
    documents = _unique(read_documents(paths))
    shares = dict(SHARES)
    parts: dict[str, list[NDArray[np.int32]]] = {name: [] for name in SHARES}
    if verify_paths:
        del shares["verification"]
        known = {document.text for document in documents}
        unseen = [d for d in _unique(read_documents(verify_paths)) if d.text not in known]
        parts["verification"] = [tokenize(tokenizer, [d], end_of_text) for d in unseen]
    for name, tokens in _shared_out(documents, tokenizer, end_of_text, shares):
        parts[name].append(tokens)
    windows = {name: _windows(name, parts[name], sizes) for name in SHARES}
    return Texts(windows, ", ".join([*paths, *verify_paths]))


def written_texts(model: Path, sizes: Sizes, seed: int, num_threads: int | None) -> Texts:
    """Three parts that the model writes itself, for who gives no text.

    On such text the mean rise of nats is an estimate of the KL divergence of the two models.
    """
    parts = {}
    for number, part in enumerate(SHARES):
        own_seed = len(SHARES) * seed + number
        written = generate_calibration(
            model, sizes.of(part), sizes.length, own_seed, num_threads=num_threads
        )
        parts[part] = written.windows
    return Texts(parts, "text that the model wrote itself")


def _unique(documents: Sequence[Document]) -> list[Document]:
    """The same text in two files would stand on two sides."""
    return list({document.text: document for document in documents}.values())


def _shared_out(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    end_of_text: int | None,
    shares: dict[str, float],
) -> list[tuple[str, NDArray[np.int32]]]:
    bounds = np.cumsum([0.0, *shares.values()]) / sum(shares.values())
    found = []
    for document in documents:
        tokens = tokenize(tokenizer, [document], end_of_text)
        if len(documents) >= _WHOLE_DOCUMENTS:
            digest = hashlib.sha256(document.name.encode()).digest()
            rank = int.from_bytes(digest[:6], "big") / 2**48
            index = int(np.searchsorted(bounds, rank, side="right")) - 1
            found.append((list(shares)[index], tokens))
            continue
        for name, low, high in zip(shares, bounds[:-1], bounds[1:], strict=True):
            found.append((name, tokens[int(low * len(tokens)) : int(high * len(tokens))]))
    return found


def _windows(part: str, pieces: list[NDArray[np.int32]], sizes: Sizes) -> Windows:
    """Windows side by side in each piece, evenly spread where there are more than are used."""
    length = sizes.length
    cut = [
        piece[: len(piece) // length * length].reshape(-1, length).astype(np.int64)
        for piece in pieces
    ]
    whole = np.concatenate(cut) if cut else np.empty((0, length), np.int64)
    if len(whole) < LEAST_WINDOWS:
        raise OptionError(
            f"the {part} part of the text has {len(whole)} windows of {length} tokens, at least "
            f"{LEAST_WINDOWS} are needed; give more text (about "
            f"{LEAST_WINDOWS * length / min(SHARES.values()):,.0f} tokens in all), or a shorter "
            "window"
        )
    wanted = min(sizes.of(part), len(whole))
    chosen: Windows = whole[np.linspace(0, len(whole) - 1, wanted).round().astype(int)]
    return chosen
