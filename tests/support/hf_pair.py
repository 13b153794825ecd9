"""An accelerated model and transformers' own, the same calls on both, and their comparison."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gpt2fast import hf  # noqa: E402

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

# What the installed release calls the cache, in forward, generate and their outputs.
_PARAMETERS = inspect.signature(transformers.GPT2LMHeadModel.forward).parameters
CACHE = "cache" if "cache" in _PARAMETERS else "past_key_values"

# A call that runs in transformers, and says so, fails the test.
ON_THE_RUNNER = pytest.mark.filterwarnings("error:gpt2fast leaves")
# Results count; whether the runner or transformers finds them is gpt2fast's business.
ANYWHERE = pytest.mark.filterwarnings("ignore:gpt2fast leaves")


def make(kind: str | type = "GPT2LMHeadModel", **fields: Any) -> Model:
    """A model of transformers, or of a class derived from one, whose logits spread."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**SIZES, **ENDS, **fields})
    # Of the flags, transformers 4.57 follows all in this implementation alone.
    config._attn_implementation = "eager"
    made: Any = getattr(transformers, kind) if isinstance(kind, str) else kind
    model = made(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.tie_weights()
    return model


def pair(kind: str | type = "GPT2LMHeadModel", **fields: Any) -> tuple[Model, Model]:
    """A model, accelerated, and the same one as it was."""
    model = make(kind, **fields)
    return hf.accelerate(copy.deepcopy(model), num_threads=1), model


def texts(batch: int = 3, length: int = 12, vocabulary: int = SIZES["vocab_size"]) -> Any:
    return torch.randint(2, vocabulary, (batch, length), generator=torch.Generator().manual_seed(3))


def cache_of(output: Any) -> Any:
    """The cache in an output of ``forward`` or ``generate``; None where there is none."""
    return getattr(output, CACHE)


def left_padding(batch: int, length: int) -> Any:
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch):
        mask[row, : 3 * row] = 0
    return mask


def close(first: Any, second: Any, atol: float = 1e-4) -> None:
    torch.testing.assert_close(first, second, atol=atol, rtol=0, equal_nan=True)


def same(found: Any, want: Any, atol: float = 1e-4) -> None:
    """Results of one structure: equal tokens and types, floating-point numbers within ``atol``.
    Of caches, which are each one's own, the lengths."""
    if isinstance(want, transformers.Cache):
        assert isinstance(found, transformers.Cache)
        assert found.get_seq_length() == want.get_seq_length()
    elif torch.is_tensor(want):
        assert torch.is_tensor(found)
        if want.is_floating_point():
            close(found, want, atol)
        else:
            assert torch.equal(found, want)
    elif isinstance(want, Mapping):
        assert type(found) is type(want)
        assert list(found) == list(want)
        for name in want:
            same(found[name], want[name], atol)
    elif isinstance(want, list | tuple):
        assert type(found) is type(want)
        assert len(found) == len(want)
        for one, other in zip(found, want, strict=True):
            same(one, other, atol)
    elif isinstance(want, Real):  # numpy's, too
        assert found == pytest.approx(want, abs=atol)
    else:
        assert found == want


def seeded(call: Callable[[], Any], seed: int = 1) -> Any:
    """What ``call`` returns, which may draw random numbers."""
    torch.manual_seed(seed)
    return call()


def same_texts(ours: Model, theirs: Model, ids: Any, **options: Any) -> Any:
    """Assert that ``generate`` returns the same on both; returns it."""
    if torch.is_tensor(ids) and "attention_mask" not in options:
        options["attention_mask"] = torch.ones_like(ids)
    want = seeded(lambda: theirs.generate(ids, **options))
    same(seeded(lambda: ours.generate(ids, **options)), want)
    return want


def outcome(call: Callable[[], Any]) -> Any:
    """What ``call`` returns, or the error it raises: class and words."""
    try:
        return seeded(call)
    except Exception as error:  # of transformers or torch: any
        return type(error), str(error)


def or_skip(call: Callable[[], Any]) -> Any:
    """What ``call`` returns, of transformers alone; skips the test where this release fails."""
    try:
        return seeded(call)
    except Exception as error:
        pytest.skip(f"transformers {transformers.__version__} itself fails: {error}")


def same_outcome(ours: Model, theirs: Model, call: Callable[[Model], Any]) -> Any:
    """Assert that ``call`` returns or raises the same on both; returns what it does."""
    want = outcome(lambda: call(theirs))
    same(outcome(lambda: call(ours)), want)
    return want
