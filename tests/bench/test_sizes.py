"""Random checkpoints: whole or not there, and what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2fast.bench import sizes
from gpt2fast.checkpoint import open_checkpoint


def test_made_once_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", (16, 3, 2))
    path = sizes.random_checkpoint("tiny", tmp_path / "work")
    with open_checkpoint(path) as checkpoint:
        config = checkpoint.config
        assert (config.n_embd, config.n_layer, config.n_head) == (16, 3, 2)
        assert checkpoint.num_parameters == 16 * (50257 + 1024 + 2) + 3 * (12 * 256 + 13 * 16)
    stamp = (path / "config.json").stat().st_mtime_ns
    assert sizes.random_checkpoint("tiny", tmp_path / "work") == path
    assert (path / "config.json").stat().st_mtime_ns == stamp
    assert [entry.name for entry in (tmp_path / "work").iterdir()] == ["random-tiny"]


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sizes.SIZES, "tiny", (16, 3, 2))

    def interrupt(*_: object) -> sizes.Tensors:
        raise KeyboardInterrupt

    monkeypatch.setattr(sizes, "_layer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sizes.random_checkpoint("tiny", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_true_sizes(size: str, parameters: int) -> None:
    from gpt2fast.config import ModelConfig

    config = ModelConfig.from_dict(sizes.config_fields(size), size)
    assert config.num_parameters == parameters
