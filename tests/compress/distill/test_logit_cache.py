"""Tokens drawn from the teacher: without bias, the same after an interruption, never another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpt2fast.compress.calibration.calibration import Calibration  # noqa: E402
from gpt2fast.compress.distill import logit_cache  # noqa: E402
from gpt2fast.compress.distill.logit_cache import CacheKey, LogitCache  # noqa: E402
from gpt2fast.compress.state.model import Model  # noqa: E402
from gpt2fast.errors import CheckpointError, OptionError  # noqa: E402

CPU = torch.device("cpu")
Made = tuple[Model, np.ndarray, CacheKey]


@pytest.fixture
def made(
    random_model: Callable[..., Model],
    random_calibration: Callable[..., Calibration],
    monkeypatch: pytest.MonkeyPatch,
) -> Made:
    """A teacher, ten windows and their key; files of four windows."""
    monkeypatch.setattr(logit_cache, "PIECE", 4)
    model = random_model(vocab_size=23)
    windows = random_calibration(23, windows=10, length=9).windows
    return model, windows, CacheKey.of(model.network, windows, 16, 1.0, seed=3)


def make(directory: Path, made: Made, key: CacheKey | None = None) -> LogitCache:
    model, windows, own = made
    return LogitCache.make(directory, key or own, model.network, windows, CPU)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_tokens_follow_the_teachers_distribution(made: Made, tmp_path: Path) -> None:
    model, windows, key = made
    ids, entropy = make(tmp_path, made, replace(key, samples=4000)).read(np.array([7, 0]), CPU)
    p = model.network(torch.from_numpy(windows[[7, 0], :-1])).softmax(-1)
    assert ids.shape == (2, 8, 4000)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(-1), rtol=1e-4, atol=1e-5)
    share = torch.nn.functional.one_hot(ids, 23).float().mean(-2)
    deviation = (share - p) / (p * (1 - p) / 4000).sqrt()
    assert deviation.abs().max() < 5, "in standard errors, 368 of them"
    assert 0.9 < deviation.square().mean().sqrt() < 1.1
    assert deviation.mean().abs() < 0.15


def test_equal_windows_have_draws_of_their_own(made: Made, tmp_path: Path) -> None:
    model, windows, _ = made
    same = np.repeat(windows[:1], 6, axis=0)
    key = CacheKey.of(model.network, same, 16, 1.0, seed=3)
    ids, _ = LogitCache.make(tmp_path, key, model.network, same, CPU).read(np.arange(6), CPU)
    assert len({tuple(row.flatten().tolist()) for row in ids}) == 6


def test_other_seeds_and_temperatures_draw_other_tokens(made: Made, tmp_path: Path) -> None:
    _, _, key = made
    numbers = np.arange(10)
    ids = [
        make(tmp_path / str(index), made, other).read(numbers, CPU)[0]
        for index, other in enumerate((key, replace(key, seed=4), replace(key, temperature=3.0)))
    ]
    assert not torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])


@pytest.mark.parametrize("lost", [("piece-000001.safetensors",), ("piece-000000.safetensors",)])
def test_an_interrupted_cache_is_finished_bit_for_bit(
    made: Made, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    make(tmp_path, made)
    whole = contents(tmp_path)
    assert len(whole) == 4, "cache.json and three files of at most four windows"
    for name in lost:
        (tmp_path / name).unlink()
    (tmp_path / "piece-000002.partial").write_bytes(b"half")
    before = (tmp_path / "piece-000002.safetensors").stat().st_mtime_ns
    make(tmp_path, made)
    assert (tmp_path / "piece-000002.safetensors").stat().st_mtime_ns == before
    (tmp_path / "piece-000002.partial").unlink()
    assert contents(tmp_path) == whole


def test_two_processes_share_the_work(made: Made, tmp_path: Path) -> None:
    model, windows, key = made
    for process in range(2):
        LogitCache.make(tmp_path / "two", key, model.network, windows, CPU, (process, 2))
    make(tmp_path / "one", made)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "other"}, r"its teacher is [0-9a-f]+, not other"),
        ({"samples": 17}, "its samples is 16, not 17"),
        ({"seed": 9}, "its seed is 3, not 9"),
    ],
)
def test_a_cache_of_another_run_is_refused(
    made: Made, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    make(tmp_path, made)
    whole = contents(tmp_path)
    with pytest.raises(OptionError, match=message):
        make(tmp_path, made, replace(made[2], **change))
    assert contents(tmp_path) == whole


def test_damage_is_named(made: Made, tmp_path: Path) -> None:
    make(tmp_path, made)
    piece = tmp_path / "piece-000001.safetensors"
    data = bytearray(piece.read_bytes())
    data[-5] ^= 1
    piece.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"piece-000001\.safetensors is damaged; delete it"):
        make(tmp_path, made)
    piece.unlink()
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cache\.json is damaged"):
        make(tmp_path, made)
    (tmp_path / "cache.json").unlink()
    with pytest.raises(CheckpointError, match=r"cache\.json is missing"):
        make(tmp_path, made)


def test_the_record_says_what_it_is_of(made: Made, tmp_path: Path) -> None:
    make(tmp_path, made)
    record = json.loads((tmp_path / "cache.json").read_text())
    assert (record["num_windows"], record["context"], record["samples"]) == (10, 8, 16)
