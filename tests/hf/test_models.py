"""transformers' own behaviour is the specification: the same calls on both, the same results."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gpt2fast import hf  # noqa: E402
from gpt2fast.errors import OptionError  # noqa: E402

Model = Any
SIZES = {"vocab_size": 211, "n_positions": 96, "n_embd": 48, "n_layer": 2, "n_head": 3}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
NO_END = {"max_new_tokens": 24, "pad_token_id": 1, "eos_token_id": None}
HEADS = [
    "GPT2Model",
    "GPT2LMHeadModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
]


def make(kind: str = "GPT2LMHeadModel", **fields: Any) -> Model:
    """A model of transformers whose logits spread."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**SIZES, **ENDS, **fields})
    # Of the flags, transformers 4.57 follows all in this implementation alone.
    config._attn_implementation = "eager"
    model = getattr(transformers, kind)(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.tie_weights()
    return model


@pytest.fixture(autouse=True)
def without_words() -> Iterator[None]:
    """A call that runs in transformers, and says so, fails the test unless it expects that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="gpt2fast leaves")
        yield


def pair(kind: str = "GPT2LMHeadModel", **fields: Any) -> tuple[Model, Model]:
    """A model, accelerated, and the same one as it was."""
    model = make(kind, **fields)
    return hf.accelerate(copy.deepcopy(model), num_threads=1), model


def texts(batch: int = 3, length: int = 12) -> Any:
    return torch.randint(
        2, SIZES["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(3)
    )


def left_padding(batch: int, length: int) -> Any:
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, : 3 * row] = 0
    return mask


def close(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)


FLAGS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False},
    {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    {"activation_function": "gelu", "n_inner": 77},
]


@pytest.mark.parametrize("fields", FLAGS, ids=str)
@torch.no_grad()
def test_logits_loss_and_cache(fields: dict[str, Any]) -> None:
    ours, theirs = pair(**fields)
    ids = texts()
    want = theirs(ids, labels=ids)
    found = ours(ids, labels=ids)
    assert torch.is_tensor(found.logits)
    assert isinstance(found.past_key_values, hf.NativeCache)
    close(found.logits, want.logits)
    close(found.loss, want.loss)
    cache, parts = None, []
    for start, end in ((0, 5), (5, 6), (6, 12)):
        output = ours(ids[:, start:end], past_key_values=cache, use_cache=True)
        cache, parts = output.past_key_values, [*parts, output.logits]
    close(torch.cat(parts, dim=1), want.logits)
    assert cache.get_seq_length() == 12
    close(ours(ids, logits_to_keep=2).logits, want.logits[:, -2:])
    assert ours(ids, use_cache=False).past_key_values is None
    as_tuple = ours(ids, return_dict=False)
    close(as_tuple[0], want.logits)


@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_every_head_on_a_ragged_batch(kind: str) -> None:
    """Padded on the right, as classifiers are fed, and longer than a step of the runner."""
    ours, theirs = pair(kind, num_labels=4)
    ids = texts(12, 90)
    mask = torch.ones_like(ids)
    for row in range(len(ids)):
        mask[row, 90 - 5 * row :] = 0
        ids[row, 90 - 5 * row :] = 1
    found, want = ours(ids, attention_mask=mask), theirs(ids, attention_mask=mask)
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        if (expected := want.get(name)) is not None:
            seen = mask[(...,) + (None,) * (expected.dim() - 2)].bool()
            per_token = expected.shape[:2] == mask.shape
            close(*(each[name] * seen if per_token else each[name] for each in (found, want)))


@torch.no_grad()
def test_multiple_choices() -> None:
    ours, theirs = pair("GPT2DoubleHeadsModel")
    ids = texts(6, 9).reshape(2, 3, 9)
    places = torch.full((2, 3), 8)
    found, want = ours(ids, mc_token_ids=places), theirs(ids, mc_token_ids=places)
    close(found.logits, want.logits)
    close(found.mc_logits, want.mc_logits)


MODES: list[dict[str, Any]] = [
    {"do_sample": False},
    {"do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    {"do_sample": True, "top_k": 20, "temperature": 0.8, "num_return_sequences": 2},
    {"do_sample": True, "top_p": 0.8},
    {"do_sample": False, "num_beams": 4},
    {"do_sample": False, "num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    {"do_sample": True, "num_beams": 3},
    {"do_sample": False, "use_cache": False},
]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_generate(mode: dict[str, Any], padded: bool) -> None:
    ours, theirs = pair()
    ids = texts()
    mask = left_padding(*ids.shape) if padded else torch.ones_like(ids)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        found.append(model.generate(ids, attention_mask=mask, **NO_END, **mode))
    assert torch.equal(*found)


@pytest.mark.parametrize("end", [None, 17, [17, 40, 90]], ids=str)
@pytest.mark.parametrize("how", ["kwargs", "config", "max_length", "no mask", "positional", "min"])
def test_greedy_texts_end_as_they_do_in_transformers(how: str, end: Any) -> None:
    """In a loop of our own: transformers' is not entered."""
    ours, theirs = pair()
    theirs.generation_config.eos_token_id = ours.generation_config.eos_token_id = end
    ids = texts(4)
    mask = left_padding(*ids.shape) if how in ("kwargs", "config") else torch.ones_like(ids)
    given: dict[str, Any] = {"attention_mask": mask, "do_sample": False, "pad_token_id": 3}
    if how == "config":
        given["generation_config"] = transformers.GenerationConfig(
            max_new_tokens=40, eos_token_id=end, pad_token_id=3
        )
    elif how == "max_length":
        given["max_length"] = 52
    else:
        given["max_new_tokens"] = 40
    if how == "no mask":
        del given["attention_mask"]
    if how == "min":
        given["min_new_tokens"] = 25
    args = (ids,) if how == "positional" else ()
    given |= {} if args else {"input_ids": ids}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.GPT2LMHeadModel, "_sample", None)
        found = ours.generate(*args, **given)
    assert torch.equal(found, theirs.generate(*args, **given))


def test_generate_with_scores_processors_and_a_streamer() -> None:
    class Ban(transformers.LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores = scores.clone()
            scores[:, input_ids[0, -1]] = -float("inf")
            return scores

    class Notes:
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: Any) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    ours, theirs = pair()
    ids, notes, results = texts(1), [Notes(), Notes()], []
    for model, streamer in zip((ours, theirs), notes, strict=True):
        results.append(
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, streamer=streamer,
                logits_processor=transformers.LogitsProcessorList([Ban()]),
                output_scores=True, output_logits=True, return_dict_in_generate=True, **NO_END,
            )
        )  # fmt: skip
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert notes[0].tokens == notes[1].tokens
    close(torch.stack(results[0].logits), torch.stack(results[1].logits))
    close(torch.stack(results[0].scores), torch.stack(results[1].scores))


@torch.no_grad()
def test_the_cache_is_cut_chosen_from_and_repeated() -> None:
    ours, theirs = pair()
    ids, more = texts(), texts(4, 3)
    cache = ours(ids, use_cache=True).past_key_values
    by_length = "max_length" in transformers.Cache.crop.__code__.co_varnames
    cache.crop(9 if by_length else 3)
    cache.batch_select_indices(torch.tensor([2, 0]))
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([3, 0, 1, 1]))
    assert cache.get_seq_length() == 9
    found = ours(more, past_key_values=cache).logits
    whole = torch.cat([ids[[0, 2, 2, 2], :9], more], dim=1)
    close(found, theirs(whole).logits[:, 9:])
    native = cache.native
    del cache
    assert native.pool.stats()["sequences"] == 0


@pytest.mark.parametrize(
    "reason", ["train", "grad", "attentions", "hidden", "hook", "embeds", "own"]
)
def test_what_the_runner_cannot_do_runs_in_transformers_and_says_so_once(reason: str) -> None:
    ours, theirs = pair()
    ids, given = texts(), {}
    expected = {
        "train": "model.training is set",
        "grad": "gradients are wanted",
        "attentions": "output_attentions",
        "hidden": "output_hidden_states",
        "hook": "a module has hooks",
        "embeds": "inputs_embeds",
        "own": "past_key_values is a DynamicCache",
    }[reason]
    if reason == "train":
        for model in (ours, theirs):
            model.train()
            model.config.resid_pdrop = 0.0
            for each in model.modules():
                if isinstance(each, torch.nn.Dropout):
                    each.p = 0.0
    if reason == "hook":
        ours.transformer.h[1].mlp.register_forward_hook(lambda *_: None)
    given |= {"output_attentions": True} if reason == "attentions" else {}
    given |= {"output_hidden_states": True} if reason == "hidden" else {}
    if reason == "attentions":
        for model in (ours, theirs):
            model.set_attn_implementation("eager")
    names = {"input_ids": ids}
    with torch.set_grad_enabled(reason == "grad"):
        if reason == "embeds":
            names = {"inputs_embeds": theirs.transformer.wte(ids)}
        if reason == "own":
            given["past_key_values"] = transformers.DynamicCache()
        with pytest.warns(UserWarning, match=f"gpt2fast leaves .*{expected}"):
            found = ours(**names, **given)
        given.pop("past_key_values", None)
        want = theirs(**names, **given)
        close(found.logits, want.logits)
        assert (found.hidden_states is None) == (want.hidden_states is None)
        ours(**names, **given)  # without a word
    assert found.logits.requires_grad == (reason == "grad")
    if reason in ("attentions", "hidden", "embeds", "own"):
        with torch.no_grad():
            close(ours(ids).logits, theirs(ids).logits)  # on the runner again


@torch.no_grad()
def test_weights_that_change_are_packed_again() -> None:
    ours, theirs = pair()
    ids = texts()
    before = ours(ids).logits
    for model in (ours, theirs):
        model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    assert not torch.equal(ours(ids).logits, before)
    close(ours(ids).logits, theirs(ids).logits)
    other = make(n_inner=192)
    torch.nn.init.normal_(other.transformer.wpe.weight, std=0.3)
    for model in (ours, theirs):
        model.load_state_dict(other.state_dict())
        model.resize_token_embeddings(220)
        model.tie_weights()
    theirs.load_state_dict(ours.state_dict())
    close(ours(ids).logits, theirs(ids).logits)
    assert ours(ids).logits.shape[-1] == 220


@torch.no_grad()
def test_round_trips(tmp_path: Path) -> None:
    """Saved, loaded by one line's change, copied, pickled, accelerated and restored."""
    ours, theirs = pair()
    ids = texts()
    want = theirs(ids).logits
    ours.save_pretrained(tmp_path)
    loaded = hf.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, transformers.GPT2LMHeadModel)
    assert loaded.config.architectures == ["GPT2LMHeadModel"]
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    for model in (loaded, back, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        close(model(ids).logits, want)
    restored = hf.restore(ours)
    assert restored is ours
    assert type(ours) is transformers.GPT2LMHeadModel
    assert type(ours.transformer) is transformers.GPT2Model
    assert torch.equal(ours(ids).logits, want)


@torch.no_grad()
def test_integers() -> None:
    model = make()
    ids = texts()
    want = model(ids).logits
    for scheme, most in (("int8", 0.05), ("int4", 0.4)):
        found = hf.accelerate(model, quantization=scheme, num_threads=1)(ids).logits
        error = torch.linalg.norm(found - want) / torch.linalg.norm(want)
        assert 0 < error < most


def test_two_threads_generate_on_one_model() -> None:
    ours, theirs = pair()
    found: dict[int, Any] = {}

    def work(seed: int) -> None:
        ids = texts(2, 5 + seed)
        found[seed] = ours.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, **NO_END
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for seed, tokens in found.items():
        ids = texts(2, 5 + seed)
        want = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **NO_END)
        assert torch.equal(tokens, want)
    assert len(found) == 4


def test_another_model_is_refused() -> None:
    with pytest.raises(OptionError, match="'Linear' is none of transformers' GPT-2 classes"):
        hf.accelerate(torch.nn.Linear(2, 2))
    with pytest.raises(OptionError, match="quantization"):
        hf.accelerate(make(), quantization="int5")
