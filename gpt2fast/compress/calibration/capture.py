"""What reaches each matrix of a network on calibration text, block after block.

A pass changes a block and only then are its outputs computed: later blocks are calibrated on what
the earlier ones have become. Shapes: N windows, T tokens, C width, K inputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import GPT2, Block, Conv1D

Consume = Callable[[str, Tensor], None]  # part such as "attn.c_attn", its inputs (rows, K)


class HiddenStates:
    """The residual stream (N, T, C) of all calibration windows before the block at hand."""

    def __init__(self, network: GPT2, calibration: Calibration, batch: int = 8) -> None:
        self.network, self.batch = network, batch
        self.layer = 0  # of the block whose inputs ``states`` are
        length, context = calibration.windows.shape[1], network.config.n_positions
        if length > context:
            raise OptionError(
                f"calibration windows of {length} tokens exceed the context of {context}; give "
                "shorter ones"
            )
        tokens = torch.from_numpy(calibration.windows).to(network.wte.weight.device)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        with torch.no_grad():
            self.states = network.wte(tokens) + network.wpe(positions)

    @property
    def block(self) -> Block:
        """The block at hand."""
        block = self.network.h[self.layer]
        assert isinstance(block, Block)
        return block

    @torch.no_grad()
    def inputs(self, parts: tuple[str, ...], consume: Consume) -> None:
        """Run the block at hand without going on, and hand ``consume`` the inputs of each of its
        ``parts`` (in the order of the block), a batch of windows at a time."""
        with ExitStack() as hooks:
            for part in parts:
                module = self.block.get_submodule(part)
                assert isinstance(module, Conv1D)
                hooks.callback(module.register_forward_pre_hook(_hook(part, consume)).remove)
            last = self.block.get_submodule(parts[-1])
            hooks.callback(last.register_forward_pre_hook(_enough).remove)
            for states in self.batches():
                with suppress(_EnoughError):
                    self.block(states)

    @torch.no_grad()
    def advance(self) -> None:
        """Replace the states by the outputs of the block at hand as it is now, and go on."""
        for states in self.batches():
            states.copy_(self.block(states))
        self.layer += 1

    def batches(self) -> Iterator[Tensor]:
        """Views (B, T, C) of the states."""
        yield from self.states.split(self.batch)


class _EnoughError(Exception):
    """Nothing behind this place of the block is wanted."""


def _enough(_module: nn.Module, _arguments: tuple[Tensor, ...]) -> None:
    raise _EnoughError


def _hook(part: str, consume: Consume) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        consume(part, arguments[0].flatten(0, -2))

    return hook
