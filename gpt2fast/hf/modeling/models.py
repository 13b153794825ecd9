"""Subclasses of transformers' GPT-2 classes, whose ``forward`` runs on the backend when it can.

Everything else is inherited. The backend belongs to the ``GPT2Model`` inside each; a language
model's logits come from the backend, too. Other heads compute theirs in torch from its hidden
states."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
)

from gpt2fast.hf.backend.backend import Backend
from gpt2fast.hf.backend.last_run import record_run
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.compat import (
    bind_arguments,
    cache_argument,
    default_return_dict,
    make_output,
    transformers_arguments,
    uses_default_cache,
)
from gpt2fast.hf.dispatch.dispatch import backend_or_reason, run_forward
from gpt2fast.hf.dispatch.fallback import (
    FallbackToTorch,
    arguments_for_torch,
    torch_if,
    warn_once,
)
from gpt2fast.hf.dispatch.padding import (
    answer_fallback_reason,
    class_fallback_reason,
    loss_fallback_reason,
    summary_fallback_reason,
)
from gpt2fast.hf.generation.decode_loop import sample
from gpt2fast.hf.generation.processors import has_custom
from gpt2fast.hf.generation.sample_arguments import parse_sample_arguments
from gpt2fast.hf.generation.torch_threads import with_one_torch_thread
from gpt2fast.hf.modeling.classes import Accelerated, accelerates

_CALLED_IN_LOOP = (
    *("__call__", "forward", "prepare_inputs_for_generation"),
    "_update_model_kwargs_for_generation",
)


@accelerates(transformers.GPT2Model)
class GPT2Model(Accelerated, transformers.GPT2Model):
    """transformers' ``GPT2Model`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        arguments = bind_arguments(transformers.GPT2Model.forward, self, args, kwargs)
        try:
            hidden, cache = run_forward(self, self, None, arguments)
        except FallbackToTorch as reason:
            warn_once(self, str(reason))
            return super().forward(**arguments_for_torch(self, arguments))
        output = make_output(
            BaseModelOutputWithPastAndCrossAttentions, cache, last_hidden_state=hidden
        )
        return output if _returns_dict(self, arguments) else output.to_tuple()


@accelerates(transformers.GPT2LMHeadModel)
class GPT2LMHeadModel(Accelerated, transformers.GPT2LMHeadModel, GenerationMixin):
    """transformers' ``GPT2LMHeadModel`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        arguments = bind_arguments(transformers.GPT2LMHeadModel.forward, self, args, kwargs)
        try:
            logits, cache = run_forward(self, self.transformer, self.lm_head, arguments)
        except FallbackToTorch as reason:
            warn_once(self.transformer, str(reason))
            with torch_if(str(reason)):  # for the network inside, too
                return super().forward(**arguments_for_torch(self.transformer, arguments))
        loss = None
        if (labels := arguments.get("labels")) is not None:
            extra = {k: v for k, v in arguments.items() if k == "num_items_in_batch"}
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **extra)
        output = make_output(CausalLMOutputWithCrossAttentions, cache, loss=loss, logits=logits)
        return output if _returns_dict(self, arguments) else output.to_tuple()

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        """Greedy decoding and sampling, called by ``generate``."""
        arguments = bind_arguments(GenerationMixin._sample, self, args, kwargs)
        parsed = parse_sample_arguments(arguments)
        if parsed is not None and _has_standard_forward(self):
            output = sample(parsed)
            if output is not None:
                record_run(self.transformer, parsed.cache.backend.run_record)
                return output
        return super()._sample(*args, **kwargs)

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        """Beam search, called by ``generate``."""
        arguments = bind_arguments(GenerationMixin._beam_search, self, args, kwargs)
        on_backend = isinstance(arguments.get("cache"), NativeCache)
        is_custom = has_custom(arguments.get("logits_processor") or ())
        search = partial(super()._beam_search, *args, **kwargs)
        return with_one_torch_thread(search) if on_backend and not is_custom else search()

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', called by ``generate``; a NativeCache replaces the default cache."""
        name = cache_argument()
        arguments = bind_arguments(
            GenerationMixin._prepare_cache_for_generation, self, args, kwargs
        )
        config: Any = arguments.get("generation_config")
        model_kwargs: Any = arguments.get("model_kwargs")
        is_known = config is not None and model_kwargs is not None  # by these names
        has_cache = is_known and model_kwargs.get(name) is not None
        result = super()._prepare_cache_for_generation(*args, **kwargs)
        if has_cache or not (is_known and uses_default_cache(model_kwargs.get(name), config)):
            return result
        if not (config.output_attentions or config.output_hidden_states):
            backend = backend_or_reason(self, self.transformer, self.lm_head, {}, needs_grad=False)
            if isinstance(backend, Backend) and not _uses_prompt_learning(self):
                model_kwargs[name] = NativeCache(backend)
        return result


@accelerates(transformers.GPT2DoubleHeadsModel)
class GPT2DoubleHeadsModel(Accelerated, transformers.GPT2DoubleHeadsModel, GenerationMixin):
    """transformers' ``GPT2DoubleHeadsModel`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        arguments = bind_arguments(transformers.GPT2DoubleHeadsModel.forward, self, args, kwargs)
        kind = self.multiple_choice_head.summary_type
        reason = loss_fallback_reason(arguments, shifted=True)
        with torch_if(reason or summary_fallback_reason(arguments, kind)):
            return super().forward(**transformers_arguments(arguments))


@accelerates(transformers.GPT2ForSequenceClassification)
class GPT2ForSequenceClassification(Accelerated, transformers.GPT2ForSequenceClassification):
    """transformers' ``GPT2ForSequenceClassification`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        theirs = transformers.GPT2ForSequenceClassification.forward
        arguments = bind_arguments(theirs, self, args, kwargs)
        with torch_if(class_fallback_reason(arguments, self.config.pad_token_id)):
            return super().forward(**transformers_arguments(arguments))


@accelerates(transformers.GPT2ForTokenClassification)
class GPT2ForTokenClassification(Accelerated, transformers.GPT2ForTokenClassification):
    """transformers' ``GPT2ForTokenClassification`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        theirs = transformers.GPT2ForTokenClassification.forward
        arguments = bind_arguments(theirs, self, args, kwargs)
        with torch_if(loss_fallback_reason(arguments, shifted=False)):
            return super().forward(**transformers_arguments(arguments))


@accelerates(transformers.GPT2ForQuestionAnswering)
class GPT2ForQuestionAnswering(Accelerated, transformers.GPT2ForQuestionAnswering):
    """transformers' ``GPT2ForQuestionAnswering`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        theirs = transformers.GPT2ForQuestionAnswering.forward
        arguments = bind_arguments(theirs, self, args, kwargs)
        with torch_if(answer_fallback_reason(arguments)):
            return super().forward(**transformers_arguments(arguments))


def _returns_dict(model: Any, arguments: dict[str, Any]) -> bool:
    return_dict = arguments.get("return_dict")
    return default_return_dict(model.config) if return_dict is None else bool(return_dict)


def _uses_prompt_learning(model: Any) -> bool:
    """Whether PEFT wraps ``model`` and will add learned keys or embeddings to its inputs."""
    prepares = model.__dict__.get("prepare_inputs_for_generation")
    config = getattr(getattr(prepares, "__self__", None), "active_peft_config", None)
    return bool(getattr(config, "is_prompt_learning", False))


def _has_standard_forward(model: Any) -> bool:
    """Whether a decoding loop may skip ``model.__call__``: nothing that it calls is overridden, and
    there are no hooks."""
    own, cls = model.__dict__, type(model)
    overridden = any(
        name in own or getattr(cls, name) is not getattr(GPT2LMHeadModel, name)
        for name in _CALLED_IN_LOOP
    )
    overridden = overridden or GPT2LMHeadModel in cls._gpt2fast_overridden
    return not (overridden or model._forward_hooks or model._forward_pre_hooks)
