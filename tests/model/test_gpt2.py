"""The readable network against transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gpt2fast.checkpoint import open_checkpoint  # noqa: E402
from gpt2fast.config import LayerShape, ModelConfig  # noqa: E402
from gpt2fast.errors import CheckpointError, RequestError  # noqa: E402
from gpt2fast.model.gpt2 import GPT2  # noqa: E402
from gpt2fast.model.weights import load_weights  # noqa: E402
from support.model_grid import BASE, FLAG_GRID, PRUNED_GRID  # noqa: E402

MakeCheckpoint = Callable[..., tuple[Path, Any]]
CONFIG = ModelConfig(vocab_size=101, n_positions=16, n_embd=64, n_layer=8, n_head=4, n_inner=256)


@pytest.mark.parametrize("overrides", FLAG_GRID + PRUNED_GRID)
def test_logits_equal_transformers(
    overrides: dict[str, Any], make_checkpoint: MakeCheckpoint
) -> None:
    path, reference = make_checkpoint(**overrides)
    with open_checkpoint(path) as checkpoint:
        model = GPT2(checkpoint.config).eval()
        load_weights(model, checkpoint)
        assert sorted(model.state_dict()) == sorted(checkpoint.names)
    ids = torch.randint(
        overrides["vocab_size"], (3, 41), generator=torch.Generator().manual_seed(1)
    )
    # Ours trains all parameters in one type; transformers leaves those of xielu in bfloat16.
    reference = copy.deepcopy(reference).float()
    with torch.no_grad():
        expected, actual = reference(ids).logits, model(ids)
    assert expected.std() > 0.2, "logits that hardly differ would prove nothing"
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_initial_weights_follow_gpt2() -> None:
    torch.manual_seed(0)
    state = GPT2(CONFIG).state_dict()
    assert state["h.3.mlp.c_fc.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["wte.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    expected = 0.02 / (2 * CONFIG.n_layer) ** 0.5
    assert state["h.3.mlp.c_proj.weight"].std().item() == pytest.approx(expected, rel=0.05)
    assert state["h.0.attn.c_proj.weight"].std().item() == pytest.approx(expected, rel=0.05)
    assert not state["h.0.attn.c_attn.bias"].any()
    assert (state["ln_f.weight"] == 1).all()


def test_parameter_count_equals_the_configuration() -> None:
    pruned = CONFIG.with_layers([LayerShape(1, 3), LayerShape(4, 256), LayerShape(2, 100)])
    for config in (CONFIG, pruned):
        assert sum(p.numel() for p in GPT2(config).parameters()) == config.num_parameters


def test_dropout_acts_in_training_only() -> None:
    model, ids = GPT2(CONFIG, dropout=0.5), torch.arange(12)[None]
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


def test_too_long_a_row_is_a_request_error() -> None:
    with pytest.raises(RequestError, match="17 tokens exceed the context of 16"):
        GPT2(CONFIG)(torch.zeros(1, 17, dtype=torch.long))


def test_upcast_survives_autocast(make_checkpoint: MakeCheckpoint) -> None:
    path, _ = make_checkpoint(**BASE, reorder_and_upcast_attn=True)
    with open_checkpoint(path) as checkpoint:
        model = GPT2(checkpoint.config).eval()
        load_weights(model, checkpoint)
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(q: Any, *rest: Any, **options: Any) -> Any:
        seen.append((q.dtype, torch.is_autocast_enabled("cpu")))
        return attend(q, *rest, **options)

    torch.nn.functional.scaled_dot_product_attention = spy
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            model(torch.arange(4)[None])
    finally:
        torch.nn.functional.scaled_dot_product_attention = attend
    assert seen == [(torch.float32, False)] * checkpoint.config.n_layer


def test_weights_with_nan_are_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path, reference = make_checkpoint(**BASE)
    state = {k: v.clone() for k, v in reference.state_dict().items() if k != "lm_head.weight"}
    state["transformer.h.1.mlp.c_fc.bias"][3] = np.nan
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    with open_checkpoint(tmp_path) as checkpoint:
        model = GPT2(checkpoint.config)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: h\.1\.mlp\.c_fc\.bias"):
            load_weights(model, checkpoint)
