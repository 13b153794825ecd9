"""A network of other shapes from the tensors of a pruned one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gpt2fast.compress.state.model import frozen
from gpt2fast.config import ModelConfig
from gpt2fast.model.gpt2 import GPT2


def rebuilt(config: ModelConfig, tensors: Mapping[str, Tensor]) -> GPT2:
    """The network of ``config`` with these ``tensors`` themselves, by canonical name.

    Nothing is drawn at random on the way. A tensor that does not fit is an error of the caller.
    """
    with torch.device("meta"):
        network = GPT2(config)
    network.load_state_dict(tensors, assign=True)
    return frozen(network)
