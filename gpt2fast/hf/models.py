"""transformers' GPT-2 classes, whose forward runs on our runner where it can.

Everything else is inherited. The network inside each, a ``GPT2Model``, has the runner; a language
model's logits come from the runner, too, and what other heads do with hidden states is torch's.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import transformers
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
)

from gpt2fast.hf.cache import NativeCache
from gpt2fast.hf.call import (
    Fallback,
    for_torch,
    left_to_torch,
    reason_of_loss,
    run,
    tell,
    why_not,
)
from gpt2fast.hf.native import Native, Options
from gpt2fast.hf.processors import has_own, threads_of_torch
from gpt2fast.hf.sample import sample, understand
from gpt2fast.hf.shapes import as_if_uniform, give_shapes
from gpt2fast.hf.source import config_of

_CALLED_BY_GENERATE = (
    *("__call__", "forward", "prepare_inputs_for_generation"),
    "_update_model_kwargs_for_generation",
)


class Accelerated:
    """What the classes here share, before transformers' own among their bases. The runner is made
    when it is first needed."""

    def __init__(self, config: Any) -> None:
        with as_if_uniform(config):
            super().__init__(config)  # type: ignore[call-arg]
        if "per_layer_config" in config.to_dict():
            give_shapes(network_of(self), config_of(self))
        enlist(self)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which make a runner of their own."""
        return {name: value for name, value in self.__dict__.items() if name != "_native"}


class GPT2Model(Accelerated, transformers.GPT2Model):
    """transformers' ``GPT2Model`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = _bind(transformers.GPT2Model, self, args, kwargs)
        try:
            hidden, cache = run(self, self, None, given)
        except Fallback as reason:
            tell(self, str(reason))
            return super().forward(**for_torch(self, given))
        found = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden, past_key_values=cache
        )
        return found if _wants_dict(self, given) else found.to_tuple()


class GPT2LMHeadModel(Accelerated, transformers.GPT2LMHeadModel):
    """transformers' ``GPT2LMHeadModel`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = _bind(transformers.GPT2LMHeadModel, self, args, kwargs)
        try:
            logits, cache = run(self, self.transformer, self.lm_head, given)
        except Fallback as reason:
            tell(self.transformer, str(reason))
            with left_to_torch(str(reason)):  # the network inside, too
                return super().forward(**for_torch(self.transformer, given))
        loss = None
        if (labels := given.get("labels")) is not None:
            extra = {k: v for k, v in given.items() if k == "num_items_in_batch"}
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **extra)
        found = CausalLMOutputWithCrossAttentions(loss=loss, logits=logits, past_key_values=cache)
        return found if _wants_dict(self, given) else found.to_tuple()

    def _sample(
        self, input_ids: Any, logits_processor: Any, stopping_criteria: Any,
        generation_config: Any, synced_gpus: bool = False, streamer: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Greedy decoding and sampling, for ``generate``."""
        asked = understand(
            input_ids, logits_processor, stopping_criteria, generation_config, streamer, kwargs
        )
        if asked is not None and not synced_gpus and _is_plain(self):
            found = sample(asked)
            if found is not None:
                return found
        return super()._sample(
            input_ids, logits_processor, stopping_criteria, generation_config,
            synced_gpus=synced_gpus, streamer=streamer, **kwargs,
        )  # fmt: skip

    def _beam_search(self, input_ids: Any, logits_processor: Any, *args: Any, **kwargs: Any) -> Any:
        """Beam search, for ``generate``."""
        on_runner = isinstance(kwargs.get("past_key_values"), NativeCache)
        alone = on_runner and not has_own(logits_processor)
        with threads_of_torch(1) if alone else nullcontext():
            return super()._beam_search(input_ids, logits_processor, *args, **kwargs)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """As transformers', for ``generate``: a cache of ours in place of its usual one."""
        given = model_kwargs.get("past_key_values")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        made = model_kwargs.get("past_key_values")
        asked = (generation_config.output_attentions, generation_config.output_hidden_states)
        offloads = generation_config.cache_implementation == "offloaded"
        if (
            given is None
            and type(made) is transformers.DynamicCache
            and not (offloads or any(asked))
        ):
            native = why_not(self, self.transformer, self.lm_head, {}, needs_grad=False)
            if isinstance(native, Native):
                model_kwargs["past_key_values"] = NativeCache(native)


class GPT2DoubleHeadsModel(Accelerated, transformers.GPT2DoubleHeadsModel):
    """transformers' ``GPT2DoubleHeadsModel`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = _bind(transformers.GPT2DoubleHeadsModel, self, args, kwargs)
        with left_to_torch(reason_of_loss(given, shifted=True)):
            return super().forward(**given)


class GPT2ForSequenceClassification(Accelerated, transformers.GPT2ForSequenceClassification):
    """transformers' ``GPT2ForSequenceClassification`` on gpt2fast's runner."""


class GPT2ForTokenClassification(Accelerated, transformers.GPT2ForTokenClassification):
    """transformers' ``GPT2ForTokenClassification`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = _bind(transformers.GPT2ForTokenClassification, self, args, kwargs)
        with left_to_torch(reason_of_loss(given, shifted=False)):
            return super().forward(**given)


class GPT2ForQuestionAnswering(Accelerated, transformers.GPT2ForQuestionAnswering):
    """transformers' ``GPT2ForQuestionAnswering`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward. Its answers may lie at padding, and its losses count it."""
        given = _bind(transformers.GPT2ForQuestionAnswering, self, args, kwargs)
        mask = given.get("attention_mask")
        whole = mask is None or bool(mask.all())
        with left_to_torch(None if whole else "answers are looked for at padding, too"):
            return super().forward(**given)


CLASSES: dict[type, type] = {
    getattr(transformers, kind.__name__): kind
    for kind in (
        *(GPT2Model, GPT2LMHeadModel, GPT2DoubleHeadsModel, GPT2ForSequenceClassification),
        *(GPT2ForTokenClassification, GPT2ForQuestionAnswering),
    )
}


def network_of(model: Any) -> Any:
    """The ``GPT2Model`` that ``model`` is or has."""
    return model if isinstance(model, transformers.GPT2Model) else model.transformer


def enlist(model: Any, options: Options | None = None) -> None:
    """Let ``model``, of a class of transformers or of ours, and the network inside run on ours."""
    network = network_of(model)
    for each in (model, network):
        each.__class__ = CLASSES.get(type(each), type(each))
        _register(each)
    network._native_options = options or Options()
    network.__dict__.pop("_native", None)


def dismiss(model: Any) -> None:
    """Undo ``enlist``."""
    network = network_of(model)
    back = {ours: theirs for theirs, ours in CLASSES.items()}
    for each in (model, network):
        each.__class__ = back.get(type(each), type(each))
    for name in ("_native", "_native_options", "_native_told", "_native_trained"):
        network.__dict__.pop(name, None)


def _register(model: Any) -> None:
    """transformers 5 looks up by its class what a model can record, as noted when it was made."""
    try:
        from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY
    except ImportError:
        return
    _CAN_RECORD_REGISTRY[model] = model._can_record_outputs


def _bind(kind: Any, model: Any, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``kind``'s forward by name."""
    bound = inspect.signature(kind.forward).bind(model, *args, **kwargs).arguments
    more = bound.pop("kwargs", {})
    bound.pop("self")
    return {**bound, **more}


def _wants_dict(model: Any, given: dict[str, Any]) -> bool:
    wants = given.get("return_dict")
    return bool(getattr(model.config, "return_dict", True) if wants is None else wants)


def _is_plain(model: Any) -> bool:
    """Whether nobody's forward or hooks would be passed over by a loop that does not call it."""
    own, kind = model.__dict__, type(model)
    changed = any(
        name in own or getattr(kind, name) is not getattr(GPT2LMHeadModel, name)
        for name in _CALLED_BY_GENERATE
    )
    return not (changed or model._forward_hooks or model._forward_pre_hooks)


def _show_arguments(kind: Any, theirs: Any) -> None:
    """generate() looks at the signature for what a model takes."""
    kind.forward.__signature__ = inspect.signature(theirs.forward)


for _theirs, _ours in CLASSES.items():
    if "forward" in vars(_ours):
        _show_arguments(_ours, _theirs)
