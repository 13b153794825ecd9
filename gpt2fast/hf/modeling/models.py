"""transformers' GPT-2 classes, whose forward runs on our runner where it can.

Everything else is inherited. The network inside each, a ``GPT2Model``, has the runner; a language
model's logits come from the runner, too, and what other heads do with hidden states is torch's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
)

from gpt2fast.hf.backend.backend import Native
from gpt2fast.hf.backend.last_run import note
from gpt2fast.hf.backend.paged_cache import NativeCache
from gpt2fast.hf.compat import (
    bind,
    cache_argument,
    output,
    to_theirs,
    usual_return_dict,
    wants_usual_cache,
)
from gpt2fast.hf.dispatch.dispatch import (
    Fallback,
    for_torch,
    left_to_torch,
    run,
    tell,
    why_not,
)
from gpt2fast.hf.dispatch.padding import (
    reason_of_answers,
    reason_of_class,
    reason_of_loss,
    reason_of_summary,
)
from gpt2fast.hf.generation.decode_loop import sample, understand
from gpt2fast.hf.generation.processors import has_own, in_one_thread
from gpt2fast.hf.modeling.classes import Accelerated, in_place_of

_CALLED_BY_GENERATE = (
    *("__call__", "forward", "prepare_inputs_for_generation"),
    "_update_model_kwargs_for_generation",
)


@in_place_of(transformers.GPT2Model)
class GPT2Model(Accelerated, transformers.GPT2Model):
    """transformers' ``GPT2Model`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = bind(transformers.GPT2Model.forward, self, args, kwargs)
        try:
            hidden, cache = run(self, self, None, given)
        except Fallback as reason:
            tell(self, str(reason))
            return super().forward(**for_torch(self, given))
        found = output(BaseModelOutputWithPastAndCrossAttentions, cache, last_hidden_state=hidden)
        return found if _wants_dict(self, given) else found.to_tuple()


@in_place_of(transformers.GPT2LMHeadModel)
class GPT2LMHeadModel(Accelerated, transformers.GPT2LMHeadModel, GenerationMixin):
    """transformers' ``GPT2LMHeadModel`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = bind(transformers.GPT2LMHeadModel.forward, self, args, kwargs)
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
        found = output(CausalLMOutputWithCrossAttentions, cache, loss=loss, logits=logits)
        return found if _wants_dict(self, given) else found.to_tuple()

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        """Greedy decoding and sampling, for ``generate``."""
        asked = understand(bind(GenerationMixin._sample, self, args, kwargs))
        if asked is not None and _is_plain(self):
            found = sample(asked)
            if found is not None:
                note(self.transformer, asked.cache.native.run_here)
                return found
        return super()._sample(*args, **kwargs)

    def _beam_search(self, *args: Any, **kwargs: Any) -> Any:
        """Beam search, for ``generate``."""
        given = bind(GenerationMixin._beam_search, self, args, kwargs)
        on_runner = isinstance(given.get("cache"), NativeCache)
        alone = on_runner and not has_own(given.get("logits_processor") or ())
        search = partial(super()._beam_search, *args, **kwargs)
        return in_one_thread(search) if alone else search()

    def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', for ``generate``: a cache of ours in place of its usual one."""
        name = cache_argument()
        given = bind(GenerationMixin._prepare_cache_for_generation, self, args, kwargs)
        settings: Any = given.get("generation_config")
        model_kwargs: Any = given.get("model_kwargs")
        is_known = settings is not None and model_kwargs is not None  # by these names
        is_own = is_known and model_kwargs.get(name) is not None
        found = super()._prepare_cache_for_generation(*args, **kwargs)
        if is_own or not (is_known and wants_usual_cache(model_kwargs.get(name), settings)):
            return found
        if not (settings.output_attentions or settings.output_hidden_states):
            native = why_not(self, self.transformer, self.lm_head, {}, needs_grad=False)
            if isinstance(native, Native) and not _learns_prompts(self):
                model_kwargs[name] = NativeCache(native)
        return found


@in_place_of(transformers.GPT2DoubleHeadsModel)
class GPT2DoubleHeadsModel(Accelerated, transformers.GPT2DoubleHeadsModel, GenerationMixin):
    """transformers' ``GPT2DoubleHeadsModel`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = bind(transformers.GPT2DoubleHeadsModel.forward, self, args, kwargs)
        kind = self.multiple_choice_head.summary_type
        reason = reason_of_loss(given, shifted=True) or reason_of_summary(given, kind)
        with left_to_torch(reason):
            return super().forward(**to_theirs(given))


@in_place_of(transformers.GPT2ForSequenceClassification)
class GPT2ForSequenceClassification(Accelerated, transformers.GPT2ForSequenceClassification):
    """transformers' ``GPT2ForSequenceClassification`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = bind(transformers.GPT2ForSequenceClassification.forward, self, args, kwargs)
        with left_to_torch(reason_of_class(given, self.config.pad_token_id)):
            return super().forward(**to_theirs(given))


@in_place_of(transformers.GPT2ForTokenClassification)
class GPT2ForTokenClassification(Accelerated, transformers.GPT2ForTokenClassification):
    """transformers' ``GPT2ForTokenClassification`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = bind(transformers.GPT2ForTokenClassification.forward, self, args, kwargs)
        with left_to_torch(reason_of_loss(given, shifted=False)):
            return super().forward(**to_theirs(given))


@in_place_of(transformers.GPT2ForQuestionAnswering)
class GPT2ForQuestionAnswering(Accelerated, transformers.GPT2ForQuestionAnswering):
    """transformers' ``GPT2ForQuestionAnswering`` on gpt2fast's runner."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' forward."""
        given = bind(transformers.GPT2ForQuestionAnswering.forward, self, args, kwargs)
        with left_to_torch(reason_of_answers(given)):
            return super().forward(**to_theirs(given))


def _wants_dict(model: Any, given: dict[str, Any]) -> bool:
    wants = given.get("return_dict")
    return usual_return_dict(model.config) if wants is None else bool(wants)


def _learns_prompts(model: Any) -> bool:
    """Whether PEFT has put itself before ``model``, and will give it keys or states that were
    learned."""
    prepares = model.__dict__.get("prepare_inputs_for_generation")
    config = getattr(getattr(prepares, "__self__", None), "active_peft_config", None)
    return bool(getattr(config, "is_prompt_learning", False))


def _is_plain(model: Any) -> bool:
    """Whether nobody's forward or hooks would be passed over by a loop that does not call it."""
    own, kind = model.__dict__, type(model)
    changed = any(
        name in own or getattr(kind, name) is not getattr(GPT2LMHeadModel, name)
        for name in _CALLED_BY_GENERATE
    )
    changed = changed or GPT2LMHeadModel in kind._gpt2fast_passed
    return not (changed or model._forward_hooks or model._forward_pre_hooks)
