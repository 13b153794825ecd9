"""Tracing and dispatch modes, which only see torch's own operations."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether the call is traced by ``torch.export``, ``torch.jit.trace``, or ``torch.compile``
    with ``fullgraph=True``. Without ``fullgraph`` the call may break the graph and run on the
    backend."""
    if torch._C._get_tracing_state() is not None:  # of torch.jit.trace
        return True
    return torch.compiler.is_compiling() and _is_one_graph()


def _is_one_graph() -> bool:
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        return bool(InstructionTranslator.current_tx().one_graph)
    except AttributeError:  # torch.export without dynamo, or another release of torch
        return True


# What torch.compiler.assume_constant_result sets, whose import takes a second: dynamo calls the
# function while tracing and uses its result as a constant.
_is_one_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]


def active_dispatch_mode() -> str | None:
    """Which mode intercepts torch's operations, and would miss the backend's; None if none does."""
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a TorchDispatchMode is on"
    if torch._C._len_torch_function_stack() > 0 and any(
        type(mode) is not torch.utils._device.DeviceContext
        for mode in torch.overrides._get_current_function_mode_stack()
    ):
        return "a TorchFunctionMode is on"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a transformation of torch.func is on"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode gradients are on"
    return None
