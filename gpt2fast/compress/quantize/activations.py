"""A network whose activations are rounded as the C++ runner rounds them before integer matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from gpt2fast.compress.state.model import Model
from gpt2fast.kernels import reference
from gpt2fast.quantization import EMBEDDING, HEAD, MatrixFormat


@contextmanager
def rounded_activations(model: Model) -> Iterator[None]:
    """While it lasts, what reaches a quantized matrix of ``model.network`` is rounded to 8 bits for
    each token and group of the matrix."""
    head = EMBEDDING if model.config.tie_word_embeddings else HEAD
    with ExitStack() as hooks:
        for name, matrix in model.matrices.items():
            if name not in (EMBEDDING, HEAD):
                module = model.network.get_submodule(name.removesuffix(".weight"))
                hook = module.register_forward_pre_hook(_before(matrix.format))
                hooks.callback(hook.remove)
        if head in model.matrices:
            after = _after(model.matrices[head].format)
            hooks.callback(model.network.ln_f.register_forward_hook(after).remove)
        yield


def _before(form: MatrixFormat) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda _module, inputs: (reference.round_rows(inputs[0], form.name, form.group_size),)


def _after(form: MatrixFormat) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda _module, _inputs, x: reference.round_rows(x, form.name, form.group_size)
