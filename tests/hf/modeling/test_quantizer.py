"""Directories that gpt2fast quantized or pruned, through transformers' own loading and saving."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gpt2fast import LLM, hf  # noqa: E402
from gpt2fast.cli import main  # noqa: E402
from gpt2fast.errors import OptionError, UnsupportedError  # noqa: E402
from support.hf_pair import close, make, texts  # noqa: E402
from support.pruned import prune  # noqa: E402

SHAPES = [(2, 100), (1, 192)]  # heads and neurons of the layers


def artifact(path: Path, scheme: str, *, pruned: bool = False, **fields: Any) -> Path:
    """Quantized in ``scheme``, or floats where it is "None"."""
    plain = path / "plain"
    plain.mkdir()
    model = make(**fields)
    if pruned:
        prune(model, SHAPES, plain)
    else:
        model.save_pretrained(plain)
    if scheme == "None":
        return plain
    out = path / "quantized"
    assert main(["quantize", str(plain), str(out), "--quantization", scheme, "--json"]) == 0
    return out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("scheme", ["None", "int8", "int4-g32"])
@torch.no_grad()
def test_the_runner_gets_the_bits_that_are_stored(
    tmp_path: Path, scheme: str, pruned: bool, tied: bool
) -> None:
    path = artifact(tmp_path, scheme, pruned=pruned, tie_word_embeddings=tied)
    ids = texts(1)
    want = LLM(path).logits(ids[0].tolist())
    model = hf.GPT2LMHeadModel.from_pretrained(path)
    assert np.array_equal(model(ids).logits[0].numpy(), want)
    assert np.array_equal(copy.deepcopy(model)(ids).logits[0].numpy(), want)
    model.save_pretrained(tmp_path / "again")
    assert np.array_equal(LLM(tmp_path / "again").logits(ids[0].tolist()), want)
    again = hf.GPT2LMHeadModel.from_pretrained(tmp_path / "again")
    assert np.array_equal(again(ids).logits[0].numpy(), want)
    tokens = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=1)
    assert torch.equal(
        tokens, again.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=1)
    )


@pytest.mark.parametrize("pruned", [True, False])
def test_torchs_path_has_the_same_integers(tmp_path: Path, pruned: bool) -> None:
    """Its activations are floats, the runner's 8-bit integers: near, and not equal."""
    model = hf.GPT2LMHeadModel.from_pretrained(artifact(tmp_path, "int8", pruned=pruned))
    ids = texts()
    with torch.no_grad():
        want = model(ids).logits
    with pytest.warns(UserWarning, match="gpt2fast leaves .*gradients"):
        found = model(ids).logits
    error = torch.linalg.norm(found - want) / torch.linalg.norm(want)
    assert 0 < error.item() < 0.03
    floats = model.dequantize()
    assert all(each.dtype == torch.float32 for each in floats.parameters())
    assert floats.lm_head.weight is floats.transformer.wte.weight
    close(floats(ids).logits, found)
    with torch.no_grad():
        close(floats(ids).logits, found)  # on the runner


@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2ForSequenceClassification"])
@torch.no_grad()
def test_other_heads_and_other_ways_to_load(tmp_path: Path, kind: str) -> None:
    path = artifact(tmp_path, "int8")
    ids = texts()
    want = hf.GPT2Model.from_pretrained(path)(ids).last_hidden_state
    if kind == "GPT2Model":
        plain = hf.restore(transformers.GPT2Model.from_pretrained(path))
        assert type(plain) is transformers.GPT2Model
        found = hf.accelerate(plain)(ids).last_hidden_state
    else:
        model = getattr(hf, kind).from_pretrained(path, num_labels=3)
        mask = torch.ones_like(ids)
        found = model.transformer(ids, attention_mask=mask).last_hidden_state
        assert model(ids, attention_mask=mask).logits.shape == (len(ids), 3)
    assert torch.equal(found, want)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    path = artifact(tmp_path, "int4-g32")
    with pytest.raises(OptionError, match=r"int8.*stored in int4-g32"):
        hf.accelerate(hf.GPT2LMHeadModel.from_pretrained(path), quantization="int8")
    scheme = hf.PanelConfig(**json.loads((path / "config.json").read_text())["quantization_config"])
    with pytest.raises(OptionError, match="accelerate"):
        hf.GPT2LMHeadModel.from_pretrained(tmp_path / "plain", quantization_config=scheme)


AUTO = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForPreTraining",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]


@pytest.mark.filterwarnings("error:gpt2fast leaves")
@torch.no_grad()
def test_auto_classes_run_the_integers_on_the_runner(tmp_path: Path) -> None:
    path = artifact(tmp_path, "int4-g32")
    for name in AUTO:
        model = getattr(transformers, name).from_pretrained(path).eval()
        assert type(model) is getattr(hf, type(model).__name__)
        model(texts())
        assert model.last_run == hf.LastRun("cpu")
    ids, model = texts(1), transformers.AutoModelForCausalLM.from_pretrained(path)
    found = model(ids).logits
    assert np.array_equal(found[0].numpy(), LLM(path).logits(ids[0].tolist()))
    plain = hf.restore(model)
    assert type(plain) is transformers.GPT2LMHeadModel
    error = torch.linalg.norm(plain(ids).logits - found) / torch.linalg.norm(found)
    assert 0 < error.item() < 0.03  # of the runner's activations, in 8 bits


def test_a_class_around_the_network_says_that_it_runs_in_torch(tmp_path: Path) -> None:
    path = artifact(tmp_path, "int8")
    with pytest.warns(UserWarning, match=r"Around is none of .*accelerate\(model.transformer\)"):
        model = Around.from_pretrained(path).eval()
    hf.accelerate(model.transformer, strict=True)
    with torch.no_grad():
        assert model(texts()).shape == (*texts().shape, 2)
    with pytest.raises(UnsupportedError, match="Nothing has no GPT-2 inside"):
        Nothing.from_pretrained(path)


class Around(transformers.GPT2PreTrainedModel):
    """A head of one's own."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = transformers.GPT2Model(config)
        self.head = torch.nn.Linear(config.n_embd, 2)
        self.post_init()

    def forward(self, ids: Any) -> Any:
        return self.head(self.transformer(ids)[0])


class Nothing(transformers.GPT2PreTrainedModel):
    """No network."""


@pytest.mark.skipif(transformers.__version__ >= "5", reason="which builds no such network")
@torch.no_grad()
def test_auto_classes_and_layers_of_different_shapes(tmp_path: Path) -> None:
    path = artifact(tmp_path, "int8", pruned=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    found = model(texts()).logits
    error = torch.linalg.norm(hf.restore(model)(texts()).logits - found) / torch.linalg.norm(found)
    assert 0 < error.item() < 0.03


@torch.no_grad()
def test_floats_after_saving(tmp_path: Path) -> None:
    """transformers 5 has a type as its name in the config then."""
    path = artifact(tmp_path, "int4-g32")
    model = hf.GPT2LMHeadModel.from_pretrained(path, quantization="int4-g32", strict=True)
    stored = model(texts()).logits
    model.save_pretrained(tmp_path / "again")
    floats = model.dequantize()
    assert floats.dtype == torch.float32
    found = floats(texts()).logits  # rounded to no integers again
    close(found, hf.restore(copy.deepcopy(floats))(texts()).logits)
    assert not torch.equal(found, stored)
    floats.save_pretrained(tmp_path / "floats")
    close(LLM(tmp_path / "floats").logits(texts()[0].tolist()), found[0].numpy())


@pytest.mark.skipif(transformers.__version__ < "5", reason="which takes no type")
def test_floats_of_a_type(tmp_path: Path) -> None:
    path = artifact(tmp_path, "int8")
    for dtype in (torch.bfloat16, "bfloat16", "torch.bfloat16"):
        model = hf.GPT2LMHeadModel.from_pretrained(path).dequantize(dtype)
        assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
        with torch.no_grad():
            assert hf.restore(model)(texts()).logits.dtype == torch.bfloat16
    for wrong in ("int8", "bfloat17", 3):
        with pytest.raises(OptionError, match=f"dtype = {wrong!r} is not known"):
            hf.GPT2LMHeadModel.from_pretrained(path).dequantize(wrong)
