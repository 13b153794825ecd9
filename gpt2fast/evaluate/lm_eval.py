"""A model class for lm-evaluation-harness, named "gpt2fast" there once this module is imported.

    import gpt2fast.evaluate.lm_eval
    lm_eval.simple_evaluate(model="gpt2fast", model_args="model=gpt2", tasks=["lambada_openai"])

``python -m gpt2fast.evaluate`` is the harness' command with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpt2fast.engine.llm import LLM
from gpt2fast.errors import MissingDependencyError, OptionError
from gpt2fast.evaluate.continuation import continuation_window, encode_pair
from gpt2fast.evaluate.pair import first_token
from gpt2fast.evaluate.scoring import Remembering, nats_of, rows_of, token_nats
from gpt2fast.evaluate.windows import make_protocol
from gpt2fast.sampling_params import SamplingParams

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"lm-evaluation-harness needs {error.name}: pip install 'gpt2fast[eval]'"
    ) from None

_MAX_GEN_TOKS = 256  # the harness' default
# The harness' names of one thing, the first that is given wins.
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("top_p", "top_k", "min_p")  # without a meaning for greedy decoding


@register_model("gpt2fast")
class GPT2FastLM(LM):  # type: ignore[misc]
    """A GPT-2 under ``LLM``.

    Args:
        model: what ``LLM`` takes; ``pretrained``, the harness' usual name for it, does as well.
        max_length: tokens of a window, by default the model's context.
        batch_size, max_batch_size: what the harness passes to every model; the engine batches by
            itself, and its results do not depend on it.
        options: of ``LLM``, such as ``quantization`` or ``num_threads``.

    Raises ``OptionError`` for a model without a tokenizer or an end-of-text token.
    """

    def __init__(
        self,
        model: str | LLM | None = None,
        pretrained: str | None = None,
        max_length: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        source = pretrained if model is None else model
        if source is None:
            raise OptionError("no model is named; give model=NAME in --model_args")
        self._name = "LLM" if isinstance(source, LLM) else str(source)
        self.llm = source if isinstance(source, LLM) else LLM(source, **options)
        if self.llm.tokenizer is None:
            raise OptionError(f"{self._name} has no tokenizer; the harness works on text")
        prefix = first_token(self.llm.config)
        self._protocol = make_protocol(
            "lm-eval", self.llm.config.n_positions, max_length, None, prefix
        )
        assert prefix is not None
        self._tokenizer, self._prefix = self.llm.tokenizer, prefix
        self.max_length = self._protocol.context

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps cached requests under."""
        return self._name.replace("/", "__")

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding gives it) of each (context, continuation)."""
        scorer = Remembering(self.llm.logits)
        found = []
        for context, continuation in _progress(requests, "loglikelihood", disable_tqdm):
            pair = self._encode(context, continuation)
            window = continuation_window(*pair, self.max_length, group=0)
            logits, targets = rows_of(scorer, window)
            greedy = bool((logits.argmax(axis=1) == targets).all())
            answer = -float(nats_of(logits, targets).sum()), greedy
            self.cache_hook.add_partial("loglikelihood", (context, continuation), answer)
            found.append(answer)
        return found

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of each whole text."""
        found = []
        for (text,) in _progress(requests, "loglikelihood_rolling", disable_tqdm):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            windows = self._protocol.windows([tuple(ids)])
            total = -float(token_nats(self.llm.logits, windows).sum())
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            found.append(total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The continuation of each (context, options), greedy where they do not say otherwise."""
        arguments = [request.args for request in requests]
        params = [_params(options) for _, options in arguments]
        prompts = [
            self._prompt(context, each.max_tokens or 1)
            for (context, _), each in zip(arguments, params, strict=True)
        ]
        if not prompts:
            return []
        outputs = self.llm.generate(prompts, params)  # all of them share the steps
        texts = [output.outputs[0].text for output in outputs]
        for argument, text in zip(arguments, texts, strict=True):
            self.cache_hook.add_partial("generate_until", argument, text)
        return texts

    def _encode(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if context:
            return encode_pair(self._tokenizer, context, continuation)
        ids = tuple(self._tokenizer.encode(continuation, add_special_tokens=False).ids)
        return (ids[:1], ids[1:]) if ids[:1] == (self._prefix,) else ((self._prefix,), ids)

    def _prompt(self, context: str, max_tokens: int) -> list[int]:
        room = self.max_length - max_tokens
        if room < 1:
            raise OptionError(
                f"{max_tokens} new tokens leave no room for a prompt in a context of "
                f"{self.max_length}; lower max_gen_toks"
            )
        ids = self._tokenizer.encode(context, add_special_tokens=False).ids or [self._prefix]
        return list(ids[-room:])


def _params(options: dict[str, Any]) -> SamplingParams:
    """What ``options`` of the harness ask for. Raises ``OptionError`` for one that is unknown."""
    left = dict(options)
    until = left.pop("until", None) or []
    lengths = [left.pop(name, None) for name in _MAX_TOKENS]
    temperature = left.pop("temperature", None)
    sample = left.pop("do_sample", None)
    chosen = {name: left.pop(name) for name in _SAMPLING if name in left}
    kept = {name: left.pop(name) for name in ("repetition_penalty", "seed") if name in left}
    if left:
        raise OptionError(
            f"generation option {next(iter(left))!r} of the task is unknown to gpt2fast; take it "
            "out with --gen_kwargs or a task of your own"
        )
    # Without do_sample a temperature above zero asks for sampling; with it, 1 is the default.
    if sample is False or (sample is None and not temperature):
        temperature, chosen = 0.0, {}
    return SamplingParams(
        temperature=1.0 if temperature is None else float(temperature),
        max_tokens=next((int(each) for each in lengths if each is not None), _MAX_GEN_TOKS),
        stop=[text for text in ([until] if isinstance(until, str) else until) if text],
        **chosen,
        **kept,
    )


def _progress(requests: Sequence[Any], what: str, disable: bool) -> Any:
    """The arguments of ``requests``, with the harness' bar."""
    from tqdm import tqdm

    return tqdm([request.args for request in requests], desc=what, disable=disable)
