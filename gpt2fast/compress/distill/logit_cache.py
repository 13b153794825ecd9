"""Tokens drawn from a teacher at each position, kept on disk so that it runs once over the text.

Keeping the K most probable tokens would be biased; drawing K from the teacher's own distribution,
each with the weight 1 / K, is not, and a few tens do (Anshumann et al. 2025). With them is kept the
teacher's entropy, so that the loss is an estimate of the divergence and not only of its
gradient. Shapes: N windows, T tokens of context, K samples, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from gpt2fast.compress.distill import fingerprint
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.files.atomic import staged_file
from gpt2fast.files.json_file import write_json
from gpt2fast.model.gpt2 import GPT2

PIECE = 64  # windows in a file: what an interruption may lose
_BATCH = 4  # windows that the teacher reads at once; part of the result's bits
_ROWS = 128  # positions whose distributions are held in float64 at once
_RECORD = "cache.json"
Progress = Callable[[int, int], None]  # windows done, windows in all


@dataclass(frozen=True)
class CacheKey:
    """What the drawn tokens depend on."""

    teacher: str  # SHA-256 of its weights
    windows: str  # SHA-256 of the token ids
    num_windows: int
    context: int
    vocab_size: int
    samples: int
    temperature: float
    seed: int

    @staticmethod
    def of(
        teacher: GPT2, windows: NDArray[np.int64], samples: int, temperature: float, seed: int
    ) -> CacheKey:
        """The key for ``windows`` (N, T + 1) and a network."""
        return CacheKey(
            teacher=fingerprint.of_network(teacher),
            windows=fingerprint.of_arrays({"windows": windows}),
            num_windows=windows.shape[0],
            context=windows.shape[1] - 1,
            vocab_size=teacher.config.vocab_size,
            samples=samples,
            temperature=temperature,
            seed=seed,
        )

    @property
    def num_pieces(self) -> int:
        """Files of the cache."""
        return -(-self.num_windows // PIECE)


class LogitCache:
    """A complete cache. ``make`` makes one, or goes on with one that is there in part."""

    def __init__(self, directory: Path, key: CacheKey) -> None:
        self.directory, self.key = directory, key
        self._pieces: dict[int, Any] = {}

    @staticmethod
    def make(
        directory: Path,
        key: CacheKey,
        teacher: GPT2,
        windows: NDArray[np.int64],
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        progress: Progress = lambda done, total: None,
    ) -> LogitCache:
        """Draw what is missing in ``directory``, a file of PIECE windows at a time; each appears
        whole, by a rename. What is drawn depends on ``key`` alone. Of several processes, number
        ``share[0]`` of ``share[1]`` makes its part.

        Raises OptionError if the directory holds another cache, CheckpointError, naming the file,
        if a file is damaged.
        """
        LogitCache.claim(directory, key)
        teacher.to(device)
        for piece in range(share[0], key.num_pieces, share[1]):
            path = _path(directory, piece)
            if path.is_file():
                _verify(path, key, piece)
            else:
                _write(path, _draw(teacher, windows, key, piece, device))
            progress(min((piece + 1) * PIECE, key.num_windows), key.num_windows)
        return LogitCache(directory, key)

    @staticmethod
    def claim(directory: Path, key: CacheKey) -> None:
        """Write what the cache is of, or check that it is that already."""
        record = directory / _RECORD
        if record.is_file():
            try:
                recorded = dict(json.loads(record.read_text(encoding="utf-8")))
            except (ValueError, TypeError):
                raise CheckpointError(f"{record} is damaged; delete {directory}") from None
            for name, value in asdict(key).items():
                if recorded.get(name) != value:
                    raise OptionError(
                        f"the cache in {directory} is of another run: its {name} is "
                        f"{recorded.get(name)}, not {value}; delete it, or give another --cache"
                    )
            return
        if directory.is_dir() and any(directory.glob("piece-*")):
            raise CheckpointError(f"{record} is missing; restore it, or delete {directory}")
        write_json(record, asdict(key))

    def read(self, numbers: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, K), int64, and entropies (B, T) of the windows ``numbers`` (B,)."""
        token_ids, entropy = [], []
        for number in numbers:
            piece, row = divmod(int(number), PIECE)
            if piece not in self._pieces:
                self._pieces[piece] = safe_open(_path(self.directory, piece), "np")
            file = self._pieces[piece]
            token_ids.append(file.get_slice("token_ids")[row : row + 1].astype(np.int64))
            entropy.append(file.get_slice("entropy")[row : row + 1])
        ids, bits = torch.from_numpy(np.concatenate(token_ids)), np.concatenate(entropy)
        return ids.to(device), torch.from_numpy(bits).to(device)


@torch.no_grad()
def _draw(
    teacher: GPT2, windows: NDArray[np.int64], key: CacheKey, piece: int, device: torch.device
) -> dict[str, NDArray[Any]]:
    """The tokens of one piece: (n, T, K), and entropies (n, T)."""
    numbers = range(piece * PIECE, min((piece + 1) * PIECE, key.num_windows))
    token_ids, entropy = [], []
    for start in range(0, len(numbers), _BATCH):
        chosen = numbers[start : start + _BATCH]
        rows = torch.from_numpy(windows[chosen.start : chosen.stop, :-1]).to(device)
        logits = teacher(rows).flatten(0, 1) / key.temperature
        uniform = np.stack([_uniform(key, number) for number in chosen])
        points = torch.from_numpy(uniform).to(device).flatten(0, 1)
        for row in range(0, len(logits), _ROWS):
            log_p = logits[row : row + _ROWS].double().log_softmax(-1)
            entropy.append(-(log_p.exp() * log_p).sum(-1))
            token_ids.append(_inverse_cdf(log_p.exp(), points[row : row + _ROWS]))
    kind = np.uint16 if key.vocab_size <= 2**16 else np.int32
    shape = (len(numbers), key.context)
    return {
        "token_ids": torch.cat(token_ids).cpu().numpy().astype(kind).reshape(*shape, key.samples),
        "entropy": torch.cat(entropy).cpu().numpy().astype(np.float32).reshape(shape),
    }


def _uniform(key: CacheKey, number: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), (T, K): of a window, whatever is drawn before it."""
    generator = np.random.Generator(np.random.Philox(key=[key.seed, number]))
    return generator.random((key.context, key.samples))


def _inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (R, K) at which the distribution functions of ``probabilities`` (R, V) pass
    ``uniform`` (R, K)."""
    cumulative = probabilities.cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp_(
        max=probabilities.shape[-1] - 1
    )


def _path(directory: Path, piece: int) -> Path:
    return directory / f"piece-{piece:06d}.safetensors"


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with staged_file(path) as stage:
        save_file(arrays, str(stage), metadata={"sha256": fingerprint.of_arrays(arrays)})


def _verify(path: Path, key: CacheKey, piece: int) -> None:
    rows = min(PIECE, key.num_windows - piece * PIECE)
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in ("token_ids", "entropy")}
            digest = (file.metadata() or {}).get("sha256")
        whole = arrays["token_ids"].shape == (rows, key.context, key.samples)
        if whole and digest == fingerprint.of_arrays(arrays):
            return
    except (SafetensorError, OSError):
        pass
    raise CheckpointError(f"{path} is damaged; delete it, and it is made again")
