"""What happens to a sequence once its next token is known: text, stopping, results."""

from __future__ import annotations

from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.logprobs import Logits, top_logprobs
from gpt2fast.engine.outputs import CompletionOutput, Delta, Logprob, RequestOutput
from gpt2fast.engine.sequence import Request, Sequence
from gpt2fast.engine.stop_strings import StopStrings
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams


def start_text(sequence: Sequence, detokenizer: Detokenizer | None) -> None:
    """Give a new sequence what turns its tokens into text."""
    params = sequence.request.params
    if detokenizer is not None and isinstance(params, SamplingParams):
        sequence.text_stream = detokenizer.stream(params.skip_special_tokens)
        if params.stop:
            sequence.stop_strings = StopStrings(params.stop, params.include_stop_str_in_output)


def record_logprobs(
    sequence: Sequence, logits: Logits, token: int, count: int, detokenizer: Detokenizer | None
) -> None:
    """Keep the log probabilities of a step from its raw ``logits`` (V,)."""
    step: dict[int, Logprob] = {}
    for other, logprob, rank in top_logprobs(logits, token, count):
        text = None if detokenizer is None else detokenizer.token_text(other)
        step.setdefault(other, Logprob(logprob, rank, text))
    sequence.logprobs.append(step)
    sequence.cumulative_logprob += step[token].logprob


def append_token(sequence: Sequence, token: int) -> Delta:
    """Add the chosen ``token``; decides whether the sequence is finished, and why."""
    request = sequence.request
    params = request.params
    assert isinstance(params, SamplingParams)
    sequence.token_ids.append(token)
    num_output = sequence.num_output
    text = ""
    if token in request.stop_ids and num_output > params.min_tokens:
        sequence.finish_reason = "stop"
        sequence.stop_reason = token if token in params.stop_token_ids else None
        if params.include_stop_str_in_output:
            text = _push_text(sequence, token, may_stop=False)
    else:
        text = _push_text(sequence, token, may_stop=num_output >= params.min_tokens)
        if sequence.finish_reason is None and num_output >= request.max_tokens:
            sequence.finish_reason = "length"
    if sequence.finish_reason and not isinstance(sequence.stop_reason, str):
        text += _flush_text(sequence)
    if text:
        sequence.text_parts.append(text)
    logprobs = sequence.logprobs[-1] if params.logprobs is not None else None
    return Delta(request.request_id, sequence.index, token, text, sequence.finish_reason, logprobs)


def _push_text(sequence: Sequence, token: int, may_stop: bool) -> str:
    if sequence.text_stream is None:
        return ""
    text = sequence.text_stream.push(token)
    if sequence.stop_strings is not None and text:
        text, stop = sequence.stop_strings.push(text, may_stop)
        if stop is not None:
            sequence.finish_reason, sequence.stop_reason = "stop", stop
    return text


def _flush_text(sequence: Sequence) -> str:
    if sequence.text_stream is None:
        return ""
    rest = sequence.text_stream.flush()
    return rest if sequence.stop_strings is None else sequence.stop_strings.flush() + rest


def request_output(
    request: Request, detokenizer: Detokenizer | None, error: Exception | None = None
) -> RequestOutput:
    """Everything about a request that has ended."""
    if error is not None or request.is_scored:
        outputs = []
    elif request.beams is not None:
        outputs = _beam_outputs(request, detokenizer)
    else:
        outputs = [_sampled_output(sequence) for sequence in request.sequences]
    return RequestOutput(
        request.request_id,
        request.prompt,
        request.prompt_token_ids,
        outputs,
        request.metrics(),
        error,
        prompt_logits=request.prompt_logits,
    )


def _sampled_output(sequence: Sequence) -> CompletionOutput:
    params = sequence.request.params
    assert isinstance(params, SamplingParams)
    wanted = params.logprobs is not None
    return CompletionOutput(
        index=sequence.index,
        text="".join(sequence.text_parts),
        token_ids=sequence.token_ids[sequence.num_prompt :],
        cumulative_logprob=sequence.cumulative_logprob if wanted else None,
        logprobs=sequence.logprobs if wanted else None,
        finish_reason=sequence.finish_reason,
        stop_reason=sequence.stop_reason,
    )


def _beam_outputs(request: Request, detokenizer: Detokenizer | None) -> list[CompletionOutput]:
    assert request.beams is not None
    params = request.params
    assert isinstance(params, BeamSearchParams)
    outputs = []
    for index, found in enumerate(request.beams.hypotheses[: params.n]):
        shown = found.token_ids if found.stop_token is None else found.token_ids[:-1]
        text = "" if detokenizer is None else detokenizer.decode(shown, params.skip_special_tokens)
        outputs.append(
            CompletionOutput(
                index=index,
                text=text,
                token_ids=found.token_ids,
                cumulative_logprob=found.sum_logprob,
                logprobs=None,
                finish_reason="length" if found.stop_token is None else "stop",
                stop_reason=found.stop_token if found.stop_token in params.stop_token_ids else None,
            )
        )
    return outputs
