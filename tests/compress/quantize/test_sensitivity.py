"""What one rounded matrix costs, and what follows for the formats of all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.quantize.activations import rounded_activations
from gpt2fast.compress.quantize.clip import round_clipped
from gpt2fast.compress.quantize.sensitivity import sensitivities
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError
from gpt2fast.kernels import reference
from gpt2fast.quantization import HEAD, MatrixFormat

INT8, INT4, INT3 = MatrixFormat("int8", 32), MatrixFormat("int4", 32), MatrixFormat("int3", 32)


def test_it_is_the_divergence_of_a_model_with_that_matrix_rounded(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    text = random_calibration(101, windows=3)
    model = random_model(tie_word_embeddings=False)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    forms = [INT8, INT3, MatrixFormat("float32")]
    found = sensitivities(model, text, forms, activations=False)
    assert found.keys() == set(model.matrix_names())
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name]), "the model must be left as it was"
    tokens = torch.from_numpy(text.windows)
    exact = F.log_softmax(model.network(tokens), -1)
    for name, row in found.items():
        assert row[MatrixFormat("float32")] == 0.0
        assert 0 < row[INT8] < row[INT3]
        one = random_model(tie_word_embeddings=False)
        one.set_quantized(name, round_clipped(one.weight(name).contiguous(), INT3))
        rounded = F.log_softmax(one.network(tokens), -1)
        kl = (exact.exp() * (exact - rounded)).sum(-1).mean()
        assert row[INT3] == pytest.approx(float(kl), rel=1e-3)
    quantize(model, text, QuantizeOptions("clip"))
    with pytest.raises(OptionError, match="float model"):
        sensitivities(model, text, [INT4])


def test_activations_are_rounded_before_quantized_matrices_alone(
    random_model: Callable[..., Model],
) -> None:
    model = random_model(tie_word_embeddings=False)
    names = ["h.1.mlp.c_fc.weight", HEAD]
    for name in names:
        model.set_quantized(name, round_clipped(model.weight(name).contiguous(), INT4))
    block = model.network.h[1]
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    plain = block.mlp.c_fc(x), block.mlp.c_proj(x.repeat(1, 1, 3)), model.network.ln_f(x)
    with rounded_activations(model):
        rounded = block.mlp.c_fc(x), block.mlp.c_proj(x.repeat(1, 1, 3)), model.network.ln_f(x)
    expected = block.mlp.c_fc(reference.round_rows(x, "int4", 32))
    assert torch.equal(rounded[0], expected)
    assert not torch.equal(rounded[0], plain[0])
    assert torch.equal(rounded[1], plain[1])
    assert torch.equal(rounded[2], reference.round_rows(plain[2], "int4", 32))
    assert torch.equal(block.mlp.c_fc(x), plain[0]), "nothing stays behind"
