"""What reaches each matrix, block after block."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.calibration.capture import HiddenStates
from gpt2fast.compress.state.model import CONV1D_PARTS, Model


def test_inputs_are_those_of_a_whole_forward_pass(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    model, calibration = random_model(), random_calibration(101, windows=5)
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _m, args, name=name: seen.update({name: args[0].flatten(0, -2)})
        )
        for name, module in model.network.named_modules()
        if name.endswith(CONV1D_PARTS)
    ]
    model.network(torch.from_numpy(calibration.windows))
    for hook in hooks:
        hook.remove()
    states = HiddenStates(model.network, calibration, batch=2)
    for layer in range(model.config.n_layer):
        rows: dict[str, list[torch.Tensor]] = {}
        states.inputs(CONV1D_PARTS, lambda part, x, rows=rows: rows.setdefault(part, []).append(x))
        for part in CONV1D_PARTS:
            whole = seen[f"h.{layer}.{part}"]
            torch.testing.assert_close(torch.cat(rows[part]), whole, atol=1e-5, rtol=1e-5)
        states.advance()


def test_later_blocks_see_what_earlier_ones_became(
    random_model: Callable[..., Model], random_calibration: Callable[..., Calibration]
) -> None:
    model, calibration = random_model(), random_calibration(101)
    before = HiddenStates(model.network, calibration)
    before.advance()
    after = HiddenStates(model.network, calibration)
    name = "h.0.mlp.c_fc.weight"
    model.set_weight(name, model.weight(name) * 0.5)
    after.advance()
    assert not torch.allclose(before.states, after.states)
