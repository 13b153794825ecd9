"""Adapters of PEFT: on torch's path while they are apart, on the runner once they are merged."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from gpt2fast import hf  # noqa: E402
from support.hf_pair import close, make, texts  # noqa: E402

APART = "gpt2fast leaves .*adapters that are not merged"


def adapted(model: Any, **options: Any) -> Any:
    """``model`` with an adapter that changes its logits."""
    settings = {"r": 4, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, **options}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    torch.manual_seed(7)
    for name, each in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(each, std=0.1)
    return wrapped.eval()


@torch.no_grad()
def test_adapters_apart_merged_switched_off_and_gone() -> None:
    model = make()
    bare, theirs = copy.deepcopy(model), adapted(copy.deepcopy(model))
    ours = hf.accelerate(adapted(model), num_threads=1)
    ids = texts()
    want = theirs(ids).logits
    assert float((want - bare(ids).logits).abs().max()) > 0.1
    with pytest.warns(UserWarning, match=APART):
        assert torch.equal(ours(ids).logits, want)
    ours.merge_adapter()
    close(ours(ids).logits, want)
    tokens = ours.generate(input_ids=ids, max_new_tokens=9, do_sample=False, pad_token_id=1)
    assert torch.equal(
        tokens, theirs.generate(input_ids=ids, max_new_tokens=9, do_sample=False, pad_token_id=1)
    )
    ours.unmerge_adapter()
    with ours.disable_adapter():
        close(ours(ids).logits, bare(ids).logits)
    close(ours(ids).logits, want)  # in torch again, without another word
    merged = ours.merge_and_unload()
    assert isinstance(merged, hf.GPT2LMHeadModel)
    close(merged(ids).logits, want)


@torch.no_grad()
def test_merged_adapters_that_are_switched_off_do_not_count() -> None:
    """PEFT takes them out of the weights when such a call comes."""
    model = make()
    bare = copy.deepcopy(model)
    ours = hf.accelerate(adapted(model), num_threads=1)
    ours.merge_adapter()
    ids = texts()
    with pytest.warns(UserWarning, match=APART), ours.disable_adapter():
        close(ours(ids).logits, bare(ids).logits)


@torch.no_grad()
def test_an_adapter_on_the_head_counts() -> None:
    model = make()
    settings = {"target_modules": ["lm_head"], "fan_in_fan_out": False}
    theirs = adapted(copy.deepcopy(model), **settings)
    ours = hf.accelerate(adapted(model, **settings), num_threads=1)
    ids = texts()
    with pytest.warns(UserWarning, match=APART):
        close(ours(ids).logits, theirs(ids).logits)


@torch.no_grad()
def test_prompt_tuning_runs_in_transformers() -> None:
    model = make()
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    torch.manual_seed(5)
    wrapped = peft.get_peft_model(model, settings).eval()
    want = wrapped(texts()).logits
    hf.accelerate(wrapped, num_threads=1)
    with pytest.warns(UserWarning, match="gpt2fast leaves .*inputs_embeds"):
        assert torch.equal(wrapped(texts()).logits, want)
    assert type(hf.restore(wrapped).get_base_model()) is transformers.GPT2LMHeadModel


def test_training_an_adapter_changes_what_is_merged() -> None:
    ours = hf.accelerate(adapted(make()), num_threads=1)
    ids = texts()
    ours.train()
    with pytest.warns(UserWarning, match=r"gpt2fast leaves .*model\.training"):
        ours(ids, labels=ids).loss.backward()
    torch.optim.SGD([each for each in ours.parameters() if each.requires_grad], lr=0.1).step()
    theirs = hf.restore(copy.deepcopy(ours)).eval()
    ours.eval().merge_adapter()
    with torch.no_grad():
        close(ours(ids).logits, theirs(ids).logits)


@pytest.mark.filterwarnings("ignore:gpt2fast leaves")
@pytest.mark.parametrize("kind", ["PrefixTuningConfig", "PromptTuningConfig"])
def test_prompts_that_are_learned_generate(kind: str) -> None:
    found = []
    for accelerates in (True, False):
        torch.manual_seed(5)
        settings = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=3)
        model = peft.get_peft_model(make(), settings).eval()
        if accelerates:
            hf.accelerate(model, num_threads=1)
        given = {"attention_mask": torch.ones_like(texts()), "max_new_tokens": 6, "pad_token_id": 1}
        found.append(model.generate(input_ids=texts(), do_sample=False, **given))
    assert torch.equal(*found)
