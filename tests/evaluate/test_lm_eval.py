"""The model class of lm-evaluation-harness, against its interface and against the other runners."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpt2fast import LLM, SamplingParams
from gpt2fast.errors import MissingDependencyError, OptionError

NAME = "gpt2fast.evaluate.lm_eval"


@dataclass(frozen=True)
class Instance:
    """What the harness hands over: of it only ``args`` is asked for."""

    args: tuple[Any, ...]


class Hook:
    def __init__(self) -> None:
        self.kept: list[tuple[str, Any, Any]] = []

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        self.kept.append((kind, arguments, answer))


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the harness' two modules; returns its registry."""
    registry: dict[str, Any] = {}

    class LM:
        def __init__(self) -> None:
            self.cache_hook = Hook()

        @classmethod
        def create_from_arg_obj(cls, arguments: Any, more: Any = None) -> Any:
            given = {key: value for key, value in (more or {}).items() if value is not None}
            return cls(**arguments, **given)

    def register_model(*names: str) -> Any:
        def keep(kind: Any) -> Any:
            assert issubclass(kind, LM)
            registry.update(dict.fromkeys(names, kind))
            return kind

        return keep

    modules = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.api")}
    modules["lm_eval.api.model"] = ModuleType("lm_eval.api.model")
    modules["lm_eval.api.model"].LM = LM  # type: ignore[attr-defined]
    modules["lm_eval.api.registry"] = ModuleType("lm_eval.api.registry")
    modules["lm_eval.api.registry"].register_model = register_model  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules.pop(NAME, None)
    importlib.import_module(NAME)
    del sys.modules[NAME]  # the next test imports it with its own stand-in
    return registry


@pytest.fixture
def model(harness: dict[str, Any]) -> Any:
    arguments = {"model": "demo", "num_threads": 1, "max_length": 64}
    made = harness["gpt2fast"].create_from_arg_obj(arguments, {"batch_size": 1, "device": None})
    yield made
    made.llm.close()


def log_probabilities(llm: LLM, ids: list[int]) -> Any:
    rows = llm.logits(ids).astype(np.float64)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def test_loglikelihood(model: Any) -> None:
    encode = model.llm.tokenizer.encode
    pairs = [("import os\nimport", " sys"), ("import os\nimport", " os"), ("x = ", "None")]
    found = model.loglikelihood([Instance(pair) for pair in pairs], disable_tqdm=True)
    for (context, continuation), (total, greedy) in zip(pairs, found, strict=True):
        ids = encode(context + continuation).ids
        start = len(encode(context.rstrip()).ids)
        rows = log_probabilities(model.llm, ids)[start - 1 : -1]
        assert total == pytest.approx(rows[np.arange(len(rows)), ids[start:]].sum(), rel=1e-5)
        assert greedy == (rows.argmax(axis=1).tolist() == ids[start:])
    kinds = {kind for kind, *_ in model.cache_hook.kept}
    assert kinds == {"loglikelihood"}
    assert model.cache_hook.kept[0][1:] == (pairs[0], found[0])


def test_an_empty_context_is_the_first_token(model: Any) -> None:
    (prefix,) = model.llm.config.eos_token_ids
    ids = [prefix, *model.llm.tokenizer.encode("import os").ids]
    rows = log_probabilities(model.llm, ids)
    wanted = sum(rows[t - 1, ids[t]] for t in range(1, len(ids)))
    ((found, _),) = model.loglikelihood([Instance(("", "import os"))], disable_tqdm=True)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_rolling_in_windows(model: Any) -> None:
    text = "def read(path):\n    return open(path).read()\n" * 12
    (prefix,) = model.llm.config.eos_token_ids
    ids = model.llm.tokenizer.encode(text).ids
    assert len(ids) > 2 * 64
    wanted, done = 0.0, 0
    while done < len(ids):
        end = min(done + 64, len(ids))
        # A whole block sees one token of the one before, the last as many as there is room for.
        first = done if end - done == 64 else end - 64
        rows = log_probabilities(model.llm, [prefix, *ids][first:end])[-(end - done) :]
        wanted += rows[np.arange(end - done), ids[done:end]].sum()
        done = end
    found = model.loglikelihood_rolling([Instance((text,)), Instance(("",))], disable_tqdm=True)
    assert found[0] == pytest.approx(wanted, rel=1e-5)
    assert found[1] == 0.0
    assert model.loglikelihood_rolling([Instance(("import os",))], disable_tqdm=True)[0] == (
        pytest.approx(model.loglikelihood([Instance(("", "import os"))], disable_tqdm=True)[0][0])
    )


def test_generate_until(model: Any) -> None:
    options = {"until": ["\n\n", ""], "max_gen_toks": 12, "do_sample": False, "temperature": 0.7}
    contexts = ["import os\n", "def main(", "x" * 400]
    found = model.generate_until([Instance((each, options)) for each in contexts])
    params = SamplingParams(temperature=0.0, max_tokens=12, stop=["\n\n"])
    for context, text in zip(contexts, found, strict=True):
        ids = model.llm.tokenizer.encode(context).ids[-(64 - 12) :]
        assert text == model.llm.generate([ids], params)[0].outputs[0].text
    assert [kind for kind, *_ in model.cache_hook.kept] == ["generate_until"] * 3
    assert model.generate_until([]) == []


def test_sampling_where_the_task_asks_for_it(model: Any) -> None:
    options = {"do_sample": True, "temperature": 0.9, "top_k": 5, "max_new_tokens": 8, "seed": 3}
    (found,) = model.generate_until([Instance(("import os\n", options))])
    params = SamplingParams(temperature=0.9, top_k=5, max_tokens=8, seed=3)
    assert found == model.llm.generate("import os\n", params)[0].outputs[0].text


def test_what_is_refused(harness: dict[str, Any], model: Any) -> None:
    with pytest.raises(OptionError, match="'num_beams' of the task is unknown"):
        model.generate_until([Instance(("a", {"num_beams": 2}))])
    with pytest.raises(OptionError, match="leave no room for a prompt in a context of 64"):
        model.generate_until([Instance(("a", {"max_gen_toks": 64}))])
    with pytest.raises(OptionError, match="no model is named"):
        harness["gpt2fast"]()
    with pytest.raises(OptionError, match=r"context = 513 is not in \[2, 512\]"):
        harness["gpt2fast"](pretrained="demo", max_length=513)


def test_without_the_harness() -> None:
    if importlib.util.find_spec("lm_eval") is not None:
        pytest.skip("lm_eval is installed")
    with pytest.raises(
        MissingDependencyError, match=r"needs lm_eval: pip install 'gpt2fast\[eval\]'"
    ):
        importlib.import_module(NAME)
    done = subprocess.run(
        [sys.executable, "-m", "gpt2fast.evaluate"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gpt2fast: error: lm-evaluation-harness needs lm_eval")
    assert done.stderr.count("\n") == 1


def test_in_the_harness_itself() -> None:
    pytest.importorskip("lm_eval")
    sys.modules.pop(NAME, None)
    module = importlib.import_module(NAME)
    registry = importlib.import_module("lm_eval.api.registry")
    assert registry.get_model("gpt2fast") is module.GPT2FastLM
    model = module.GPT2FastLM.create_from_arg_string("model=demo,num_threads=1")
    assert model.loglikelihood([Instance(("import", " os"))])[0][0] < 0
