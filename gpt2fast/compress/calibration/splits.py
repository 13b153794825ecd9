"""The text of a compression, in three parts that have nothing in common: passes look at the first,
recipes are chosen by the second, and the artifact is verified on the third.

Windows are (N, T) token ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpt2fast.compress.calibration.calibration import Calibration, generate_calibration
from gpt2fast.compress.calibration.overlap import repeats
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.errors import OptionError
from gpt2fast.files.journal import Journal, damage_named
from gpt2fast.train.corpus import Document, read_documents
from gpt2fast.train.data import tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHARES = {"calibration": 0.5, "selection": 0.2, "verification": 0.3}  # of each document's tokens
LEAST_WINDOWS = 8  # of a part: fewer tell too little
_WHOLE_DOCUMENTS = 24  # from so many on a document goes to one part as a whole

WRITTEN = "text that the model wrote itself"
_WINDOWS = "windows.npy"

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
    left_out: dict[str, int] = field(default_factory=dict)  # windows of a part: they repeat another

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
        return {
            "origin": self.origin,
            "written_by_the_model": not self.left_out,
            "key": self.key,
            "calibration_tokens": int(self.parts["calibration"].size),
            # Of these all but the first of each window is predicted.
            "selection_tokens": int(self.parts["selection"][:, 1:].size),
            "verification_tokens": int(self.parts["verification"][:, 1:].size),
            "windows_left_out": self.left_out,
        }


def split_texts(
    paths: Sequence[str],
    tokenizer: Tokenizer,
    end_of_text: int | None,
    sizes: Sizes,
    verify_paths: Sequence[str] = (),
) -> Texts:
    """Read files and share them out. ``verify_paths`` are verified on instead of a share. Windows
    that repeat a passage of a part before theirs, in whatever file, are left out.

    Raises OptionError that names a file that cannot be read, or says how much text is missing.
    """
    documents = _unique(read_documents(paths))
    texts = [tokenize(tokenizer, [document], end_of_text) for document in documents]
    shares = dict(SHARES)
    parts: dict[str, list[NDArray[np.int32]]] = {name: [] for name in SHARES}
    if verify_paths:
        del shares["verification"]
        verified = _unique(read_documents(verify_paths))
        parts["verification"] = [tokenize(tokenizer, [d], end_of_text) for d in verified]
    for name, tokens in _shared_out(documents, texts, shares):
        parts[name].append(tokens)
    windows, seen = {}, list[NDArray[np.int32]]()
    left_out = {}
    for name in SHARES:
        own = verify_paths if verify_paths and name == "verification" else paths
        part = f"{', '.join(own)}: the {name} part of the text"
        windows[name], left_out[name] = _windows(
            part, parts[name], seen, sizes.of(name), sizes.length
        )
        # Where other text is verified on, a passage across the border of two parts counts as well.
        seen = texts if name == "selection" and verify_paths else [*seen, *parts[name]]
    return Texts(windows, ", ".join([*paths, *verify_paths]), left_out)


def written_texts(
    model: Path, sizes: Sizes, seed: int, num_threads: int | None, work: Path, say: ProgressCallback
) -> Texts:
    """Three parts that the model writes itself, for who gives no text; ``work`` keeps each.

    On such text the mean rise of nats is an estimate of the KL divergence of the two models.
    """
    parts, journal = {}, Journal(work / "text")
    for number, part in enumerate(SHARES):
        name = f"{part}-{sizes.of(part)}x{sizes.length}"
        if (place := journal.find(name)) is None:
            own_seed = len(SHARES) * seed + number
            parts[part] = _write_text(model, part, sizes, own_seed, num_threads, say)
            journal.record(name, write=partial(_save, parts[part]))
        else:
            parts[part] = _load(place)
    return Texts(parts, WRITTEN)


def _write_text(
    model: Path,
    part: str,
    sizes: Sizes,
    seed: int,
    num_threads: int | None,
    say: ProgressCallback,
) -> Windows:
    def progress(done: int, total: int) -> None:
        say(f"the model writes text for the {part}: {done} of {total} windows")

    count, length = sizes.of(part), sizes.length
    written = generate_calibration(
        model, count, length, seed, num_threads=num_threads, progress=progress
    )
    return written.windows


def _save(windows: Windows, place: Path) -> None:
    np.save(place / _WINDOWS, windows)


def _load(place: Path) -> Windows:
    with damage_named(place):
        windows: Windows = np.load(place / _WINDOWS, allow_pickle=False)
        return windows


def _unique(documents: Sequence[Document]) -> list[Document]:
    """The same text in two files would stand on two sides."""
    return list({document.text: document for document in documents}.values())


def _shared_out(
    documents: Sequence[Document],
    texts: Sequence[NDArray[np.int32]],
    shares: dict[str, float],
) -> list[tuple[str, NDArray[np.int32]]]:
    bounds = np.cumsum([0.0, *shares.values()]) / sum(shares.values())
    found = []
    for document, tokens in zip(documents, texts, strict=True):
        if len(documents) >= _WHOLE_DOCUMENTS:
            digest = hashlib.sha256(document.name.encode()).digest()
            rank = int.from_bytes(digest[:6], "big") / 2**48
            index = int(np.searchsorted(bounds, rank, side="right")) - 1
            found.append((list(shares)[index], tokens))
            continue
        for name, low, high in zip(shares, bounds[:-1], bounds[1:], strict=True):
            found.append((name, tokens[int(low * len(tokens)) : int(high * len(tokens))]))
    return found


def _windows(
    part: str,
    pieces: list[NDArray[np.int32]],
    seen: list[NDArray[np.int32]],
    most: int,
    length: int,
) -> tuple[Windows, int]:
    """Windows side by side in each piece, evenly spread where there are more than are used, and how
    many were left out because they repeat what was ``seen``."""
    cut = [
        piece[: len(piece) // length * length].reshape(-1, length).astype(np.int64)
        for piece in pieces
    ]
    whole = np.concatenate(cut) if cut else np.empty((0, length), np.int64)
    known = repeats(whole, seen)
    whole, left_out = whole[~known], int(known.sum())
    if len(whole) < LEAST_WINDOWS:
        besides = f" besides {left_out} that repeat text of the other parts" if left_out else ""
        raise OptionError(
            f"{part} has {len(whole)} windows of {length} tokens{besides}, at "
            f"least {LEAST_WINDOWS} are needed; give more text, about "
            f"{LEAST_WINDOWS * length / min(SHARES.values()):,.0f} tokens in all"
        )
    wanted = min(most, len(whole))
    chosen: Windows = whole[np.linspace(0, len(whole) - 1, wanted).round().astype(int)]
    return chosen, left_out
