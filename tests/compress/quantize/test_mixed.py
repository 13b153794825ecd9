"""Mixed precision: within its bits, and better than one format of as many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.quantize import QuantizeOptions, quantize, sensitivity
from gpt2fast.compress.quantize.mixed import MixedOptions, mean_bits, mixed_formats
from gpt2fast.compress.state.artifact import quantization_of
from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError
from gpt2fast.quantization import MatrixFormat

Make = Callable[..., Model]


def quiet(_what: str, _done: int, _total: int) -> None:
    """Nobody listens."""


def chosen(model: Model, text: Calibration, bits: float, work: Path) -> QuantizeOptions:
    return mixed_formats(
        model, text, MixedOptions(bits=bits, method="rtn"), TensorJournal(work), quiet
    )


@pytest.mark.parametrize("bits", [3.6, 4.6, 6.0])
def test_within_its_bits(
    random_model: Make,
    random_calibration: Callable[..., Calibration],
    tmp_path: Path,
    bits: float,
) -> None:
    model = random_model(n_embd=64, n_inner=256, vocab_size=128)
    text = random_calibration(128)
    quantize(model, text, chosen(model, text, bits, tmp_path))
    scheme = quantization_of(model)
    assert scheme is not None
    assert bits - 1.5 < mean_bits(model.config, scheme) <= bits


def test_what_was_measured_is_read_back(
    random_model: Make,
    random_calibration: Callable[..., Calibration],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, text = random_model(n_embd=64), random_calibration(101)
    first = chosen(model, text, 5.0, tmp_path)
    monkeypatch.delattr(sensitivity._Probe, "divergence")
    assert chosen(model, text, 5.0, tmp_path) == first


def test_the_matrix_that_loses_most_gets_the_most_bits(
    random_model: Make, random_calibration: Callable[..., Calibration], tmp_path: Path
) -> None:
    model, text = random_model(n_embd=64, n_inner=64), random_calibration(101)
    name = "h.1.mlp.c_proj.weight"
    model.set_weight(name, model.weight(name) * 8)
    options = chosen(model, text, 6.2, tmp_path)
    formats = {each: options.format_of(each) for each in model.matrix_names()}
    assert formats[name] == MatrixFormat("int8", 64)
    assert len(set(formats.values())) > 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 0.0}, "bits = 0.0"),
        ({"formats": ()}, "one or more of integers"),
        ({"formats": (MatrixFormat("float32"),)}, "one or more of integers"),
        ({"method": "best"}, "method = 'best'"),
    ],
)
def test_nonsense_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MixedOptions(**fields)  # type: ignore[arg-type]


def test_too_few_bits(
    random_model: Make, random_calibration: Callable[..., Calibration], tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match="too few"):
        chosen(random_model(), random_calibration(101), 2.0, tmp_path)
