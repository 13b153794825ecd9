"""Ways of decoding beyond sampling and beams: assistants, prompts looked up, loops of one's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from support.hf_pair import (
    ANYWHERE,
    CACHE,
    ON_THE_RUNNER,
    cache_of,
    hf,
    make,
    or_skip,
    pair,
    same,
    same_outcome,
    same_texts,
    seeded,
    texts,
    torch,
    transformers,
)

ONE = {"attention_mask": torch.ones_like(texts(1)), "max_new_tokens": 12}


def assistant(kind: str, main: Any) -> Any:
    """A model of one layer, or one with the weights of ``main``, of which all drafts are right."""
    found = make(n_layer=1) if kind == "another" else make(**main.config.to_diff_dict())
    if kind == "a twin":
        found.load_state_dict(main.state_dict())
    found.generation_config.num_assistant_tokens = 4
    found.generation_config.assistant_confidence_threshold = 0.0
    return found


class Letters(transformers.PreTrainedTokenizerFast):
    """It knows bytes, and two words that GPT-2's does not know."""

    def __init__(self) -> None:
        letters = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "qzx", "jqv"]
        vocab = {each: number for number, each in enumerate(letters)}
        found = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
        found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = tokenizers.decoders.ByteLevel()
        super().__init__(tokenizer_object=found)

    def get_vocab(self) -> dict[str, int]:
        """In one order always, by which transformers orders the tokens that it draws from."""
        return dict(sorted(super().get_vocab().items()))


@ON_THE_RUNNER
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("another", {}),
        ("another", {"do_sample": True}),
        ("another", {"repetition_penalty": 1.4}),
        ("a twin", {"do_sample": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("accelerated", ["both", "the model", "the assistant"])
def test_assistants(kind: str, accelerated: str, mode: dict[str, Any]) -> None:
    ours, theirs = pair()
    given = {**ONE, **mode, "output_logits": True, "return_dict_in_generate": True}
    helper = assistant(kind, theirs)
    want = seeded(lambda: theirs.generate(texts(1), assistant_model=helper, **given))
    helper = assistant(kind, theirs)
    if accelerated != "the model":
        hf.accelerate(helper, num_threads=1)
    model = theirs if accelerated == "the assistant" else ours
    found = seeded(lambda: model.generate(texts(1), assistant_model=helper, **given))
    same(found, want)
    if "do_sample" not in mode:
        alone = theirs.generate(texts(1), **given).sequences
        assert torch.equal(found.sequences, alone)


@ANYWHERE
@pytest.mark.parametrize("mode", [{}, {"do_sample": True}], ids=str)
@pytest.mark.parametrize("accelerated", ["both", "the model", "the assistant"])
def test_assistants_with_a_tokenizer_of_their_own(
    accelerated: str, mode: dict[str, Any], speaking: Any, tokenizer: Any
) -> None:
    """To sample, transformers cuts the assistant's head to the tokens that both know."""
    prompt = tokenizer("It was a bright cold day", return_tensors="pt")
    ours, theirs = speaking
    results = []
    for model, mine in ((theirs, False), (ours, accelerated != "the model")):
        helper = make(vocab_size=258, n_layer=1)
        helper.generation_config.num_assistant_tokens = 4
        given = {
            "assistant_model": hf.accelerate(helper, num_threads=1) if mine else helper,
            "assistant_tokenizer": Letters(),
            "tokenizer": tokenizer,
            "max_new_tokens": 8,
        }
        main = theirs if accelerated == "the assistant" else model
        call = partial(main.generate, **prompt, **given, **mode)
        results.append(seeded(call) if results else or_skip(call))
    assert torch.equal(*results)


@ON_THE_RUNNER
@pytest.mark.parametrize("mode", [{}, {"do_sample": True}], ids=str)
def test_prompts_that_are_looked_up(mode: dict[str, Any]) -> None:
    """In a text that repeats itself drafts are found, some right and some wrong."""
    ours, theirs = pair()
    ids = texts(1, 9).repeat(1, 3)
    given = {"prompt_lookup_num_tokens": 5, "max_new_tokens": 30, "output_scores": True}
    given["return_dict_in_generate"] = True
    same_texts(ours, theirs, ids, max_matching_ngram_size=3, **given, **mode)
    if not mode:
        same_texts(ours, theirs, ids, repetition_penalty=1.2, **given)


@ON_THE_RUNNER
@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}], ids=str)
def test_the_last_token_is_healed(mode: dict[str, Any], speaking: Any, tokenizer: Any) -> None:
    """A word cut in the middle is begun again."""
    prompt = tokenizer("The link is http:", return_tensors="pt")
    given = {"tokenizer": tokenizer, "max_new_tokens": 5, **mode}
    plain = same_texts(*speaking, prompt.input_ids, **given)
    healed = same_texts(*speaking, prompt.input_ids, token_healing=True, **given)
    assert not torch.equal(healed, plain)


MOVED: dict[str, dict[str, Any]] = {
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4, "do_sample": False},
    "groups of beams": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "layers against layers": {"dola_layers": "low", "do_sample": False},
    "words that must occur": {"num_beams": 3, "force_words_ids": [[5, 6]], "do_sample": False},
}


@ANYWHERE
@pytest.mark.parametrize("mode", MOVED.values(), ids=MOVED)
def test_modes_that_some_versions_offer(mode: dict[str, Any]) -> None:
    """Where they are there, their results; where they have moved to the hub, the same words."""
    ours, theirs = pair()
    same_outcome(ours, theirs, lambda model: model.generate(texts(1), **ONE, **mode))


CONTRASTIVE = '''
import torch


def generate(model, input_ids, generation_config, past_key_values=None, **kwargs):
    """Of the likeliest tokens the one whose state is least like all before, over the cache."""
    count, batch = 3, input_ids.shape[0]
    asks = {"use_cache": True, "output_hidden_states": True}
    output = model(input_ids, past_key_values=past_key_values, **asks)
    states = output.hidden_states[-1]
    for _ in range(generation_config.max_new_tokens):
        chances, tokens = output.logits[:, -1].softmax(-1).topk(count)
        cache = output.past_key_values
        cache.batch_repeat_interleave(count)
        output = model(tokens.reshape(-1, 1), past_key_values=cache, **asks)
        new = output.hidden_states[-1].reshape(batch, count, -1)
        likeness = torch.cosine_similarity(new[:, :, None], states[:, None], dim=-1).amax(-1)
        best = (0.5 * chances - 0.5 * likeness).argmax(-1)
        rows = torch.arange(batch) * count + best
        output.past_key_values.batch_select_indices(rows)
        output.logits = output.logits[rows]
        states = torch.cat([states, new[torch.arange(batch), best][:, None]], dim=1)
        input_ids = torch.cat([input_ids, tokens[torch.arange(batch), best][:, None]], dim=1)
    return input_ids
'''.replace("past_key_values", CACHE)


@ANYWHERE
def test_a_loop_of_one_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function, or a folder that holds one: contrastive search, as it is on the hub."""
    names: dict[str, Any] = {}
    exec(CONTRASTIVE, names)
    ours, theirs = pair()

    def loop(model: Any, input_ids: Any, **kwargs: Any) -> Any:
        del kwargs["logits_processor"], kwargs["stopping_criteria"]
        return names["generate"](model, input_ids, **kwargs)

    want = same_texts(ours, theirs, texts(), custom_generate=loop, max_new_tokens=8)
    assert not torch.equal(want, theirs.generate(texts(), max_new_tokens=8))
    (tmp_path / "custom_generate").mkdir()
    folder = CONTRASTIVE.replace("input_ids,", "inputs, max_new_tokens,", 1).replace(
        "    count,", "    input_ids = inputs\n    count,", 1
    )
    folder = folder.replace("generation_config.max_new_tokens", "max_new_tokens")
    (tmp_path / "custom_generate" / "generate.py").write_text(folder)
    for module in (transformers.dynamic_module_utils, transformers.utils.hub):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)
    given = {"custom_generate": str(tmp_path), "trust_remote_code": True, "max_new_tokens": 8}
    assert torch.equal(want, same_texts(ours, theirs, texts(), **given))


@ON_THE_RUNNER
def test_a_loop_of_one_s_own_without_states() -> None:
    """Over the cache that ``generate`` makes, on the runner."""

    def loop(model: Any, input_ids: Any, stopping_criteria: Any, **given: Any) -> Any:
        cache, new = given.get(CACHE), input_ids  # in 5.0 it is forward that makes one
        while not bool(torch.as_tensor(stopping_criteria(input_ids, None)).all()):
            output = model(new, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
            cache = cache_of(output)
            new = output.logits[:, -1].argmin(-1, keepdim=True)
            input_ids = torch.cat([input_ids, new], dim=1)
        return input_ids, given["generation_config"].max_new_tokens

    ours, theirs = pair()
    given = {"custom_generate": loop, "max_new_tokens": 8, "pad_token_id": 1}
    found, _ = same_texts(ours, theirs, texts(), **given)
    assert found.shape[1] == 20


@ANYWHERE
@pytest.mark.parametrize("with_ids", [False, True], ids=["alone", "with ids"])
@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}, {"do_sample": True}], ids=str)
def test_generate_from_embeddings(mode: dict[str, Any], with_ids: bool) -> None:
    models = pair()
    given = {"max_new_tokens": 8, "pad_token_id": 1, "attention_mask": torch.ones_like(texts())}
    given |= {"input_ids": texts()} if with_ids else {}
    found, want = (
        seeded(
            lambda m=m: m.generate(
                inputs_embeds=m.get_input_embeddings()(texts()).detach(), **given, **mode
            )
        )
        for m in models
    )
    assert want.shape[1] == (20 if with_ids else 8)
    assert torch.equal(found, want)


@pytest.mark.slow
@ANYWHERE
def test_continuous_batching() -> None:
    """Transformers' own batches over pages, where the installed version has them."""
    ours, theirs = pair()
    given = {"cache_implementation": "paged", "max_new_tokens": 5, "do_sample": False}
    same_outcome(ours, theirs, lambda model: model.generate(texts(2), **given))
