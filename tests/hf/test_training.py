"""An accelerated model learns as its twin in transformers does, and generates between the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.hf_pair import ANYWHERE, HEADS, close, pair, same, seeded, texts, torch

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "SGD": lambda each: torch.optim.SGD(each, lr=0.1, momentum=0.9),
    "AdamW": lambda each: torch.optim.AdamW(each, lr=0.01, foreach=False),
    "AdamW, foreach": lambda each: torch.optim.AdamW(each, lr=0.01, foreach=True),
    "AdamW, fused": lambda each: torch.optim.AdamW(each, lr=0.01, fused=True),
    "Adafactor": lambda each: torch.optim.Adafactor(each, lr=0.01),
}


@ANYWHERE
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_and_generating_in_turns(optimizer: Callable[[Any], Any]) -> None:
    """As a twin of transformers does: the same losses, weights and texts."""
    results = []
    for model in pair():
        steps = optimizer(model.parameters())
        found = []
        for step in range(3):
            model.eval()
            with torch.no_grad():
                found += [model(texts(), labels=texts()).loss]
            given = {"attention_mask": torch.ones_like(texts()), "max_new_tokens": 4}
            found += [model.generate(texts(), **given, do_sample=False)]
            model.train()
            loss = seeded(lambda m=model: m(texts(), labels=texts()).loss, step)
            loss.backward()
            steps.step()
            steps.zero_grad()
            found += [loss.detach()]
        found += [{name: each.detach() for name, each in model.named_parameters()}]
        results.append(found)
    same(*results)
    losses = [each for each in results[1] if torch.is_tensor(each) and each.dim() == 0]
    assert losses[0] > losses[-2] > 0


@ANYWHERE
def test_some_rows_of_a_table_learn() -> None:
    """Those of the tokens of a batch, by an optimizer that counts no versions of what it writes."""
    results = []
    for model in pair(tie_word_embeddings=False):
        model.requires_grad_(False)
        table = model.transformer.wte.weight.requires_grad_()
        steps = torch.optim.AdamW([table], lr=0.05, weight_decay=0.0, fused=True)
        ids = texts(1, 3)
        with torch.no_grad():
            found = [model(ids).logits]
        for _ in range(2):
            model(ids, labels=ids).loss.backward()
            steps.step()
            with torch.no_grad():
                found.append(model(ids).logits)
        results.append(found)
    assert not torch.allclose(results[1][0], results[1][1], atol=0.01)
    same(*results)


@ANYWHERE
@pytest.mark.parametrize("kind", HEADS[2:])
def test_other_heads_learn(kind: str) -> None:
    results = []
    for model in pair(kind, num_labels=4):
        steps = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.no_grad():
            model(texts())
        output = seeded(lambda m=model: m.train()(texts()))
        (output[0] ** 2).sum().backward()
        steps.step()
        with torch.no_grad():
            results.append(model.eval()(texts()))
    same(*results)


@ANYWHERE
def test_training_with_checkpoints_of_activations() -> None:
    slopes = []
    for model in pair():
        model.train()
        model.gradient_checkpointing_enable()
        seeded(lambda m=model: m(texts(), labels=texts()).loss).backward()
        slopes.append(model.transformer.wte.weight.grad)
        model.gradient_checkpointing_disable()
    assert slopes[1].any()
    close(*slopes)


@ANYWHERE
def test_some_weights_are_frozen() -> None:
    """Gradients of the rest, and of embeddings that are given."""
    slopes = []
    for model in pair():
        model.transformer.requires_grad_(False)
        model.transformer.h[1].requires_grad_(True)
        given = model.get_input_embeddings()(texts()).detach().requires_grad_()
        model(inputs_embeds=given, labels=texts()).loss.backward()
        slopes.append([given.grad, model.transformer.h[1].mlp.c_fc.weight.grad])
        assert model.transformer.h[0].mlp.c_fc.weight.grad is None
    assert slopes[1][0].any()
    same(*slopes)
