"""Graphs of torch are made of transformers' operations; what watches those is not passed over."""

from __future__ import annotations

from typing import Any

import pytest

from support.hf_pair import ANYWHERE, ON_THE_RUNNER, close, or_skip, pair, texts, torch


class Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any) -> Any:
        return self.model(ids, use_cache=False).logits


@ANYWHERE
@pytest.mark.parametrize("strict", [False, True])
@torch.no_grad()
def test_export(strict: bool) -> None:
    ours, theirs = pair()
    graph = torch.export.export(Logits(ours), (texts(),), strict=strict).module()
    other = texts(3, 12, 100)
    close(graph(other), theirs(other).logits)


@ANYWHERE
@torch.no_grad()
def test_trace() -> None:
    ours, theirs = pair()
    or_skip(lambda: torch.jit.trace(Logits(theirs), texts()))
    ours(texts())
    graph = torch.jit.trace(Logits(ours), texts())
    other = texts(3, 12, 100)
    close(graph(other), theirs(other).logits)


@ON_THE_RUNNER
@pytest.mark.parametrize("whole", [False, True])
@torch.no_grad()
def test_compile(whole: bool) -> None:
    """A graph that may not break is transformers'; another breaks where the runner is called."""
    torch._dynamo.reset()
    ours, theirs = pair()
    compiled = torch.compile(ours, backend="eager", fullgraph=whole)
    found = compiled(texts(), use_cache=False).logits
    close(found, theirs(texts()).logits)
    assert ("_gpt2fast_backend" in ours.transformer.__dict__) is not whole
    torch._dynamo.reset()


class Halved(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function: Any, _: Any, args: Any = (), more: Any = None) -> Any:
        found = function(*args, **(more or {}))
        return found / 2 if function is torch.nn.functional.layer_norm else found


@torch.no_grad()
def test_modes_are_not_passed_over() -> None:
    ours, theirs = pair()
    close(ours(texts()).logits, theirs(texts()).logits)
    with Halved():
        want = theirs(texts()).logits
        with pytest.warns(UserWarning, match="TorchFunctionMode"):
            close(ours(texts()).logits, want)


@ON_THE_RUNNER
@torch.no_grad()
def test_a_default_device_is_no_watcher() -> None:
    ours, theirs = pair()
    with torch.device("cpu"):
        close(ours(texts()).logits, theirs(texts()).logits)


@ANYWHERE
@torch.no_grad()
def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    ours = pair()[0]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        ids, mask = (mode.from_tensor(each) for each in (texts(), torch.ones_like(texts())))
        assert ours(ids, attention_mask=mask).logits.shape == (3, 12, 211)
