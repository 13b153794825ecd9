"""What happens to a sequence once its next token is known: text, stopping, results."""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList

from gpt2fast.engine.detokenizer import Detokenizer
from gpt2fast.engine.logprobs import Logits, top_logprobs
from gpt2fast.engine.outputs import CompletionOutput, Delta, Logprob, RequestOutput
from gpt2fast.engine.sample_step import check_token
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


def append_tokens(sequence: Sequence, tokens: ReadOnlyList[int], deltas: list[Delta]) -> None:
    """Add the ``tokens`` that a sampler gave, and a delta for each, up to the one that finishes the
    sequence. Raises what ``check_token`` does."""
    request = sequence.request
    params = request.params
    assert isinstance(params, SamplingParams)
    stop_ids, min_tokens = request.stop_ids, params.min_tokens
    request_id, index, stream = request.request_id, sequence.index, sequence.text_stream
    logprobs = sequence.logprobs[-1] if params.logprobs is not None else None
    num_output = sequence.num_output
    for token in tokens:
        if token < 0:
            check_token(token)
        sequence.token_ids.append(token)
        num_output += 1
        if token in stop_ids and num_output > min_tokens:
            text = _stop(sequence, token)
        else:
            text = "" if stream is None else stream.push(token)
            if text and sequence.stop_strings is not None:
                text = _search(sequence, text, num_output >= min_tokens)
            if num_output >= request.max_tokens and sequence.finish_reason is None:
                sequence.finish_reason = "length"
        if sequence.finish_reason is not None and not isinstance(sequence.stop_reason, str):
            text += _flush_text(sequence)
        if text:
            sequence.text_parts.append(text)
        deltas.append(Delta(request_id, index, token, text, sequence.finish_reason, logprobs))
        if sequence.finish_reason is not None:
            return


def _stop(sequence: Sequence, token: int) -> str:
    """A stop token ends the sequence; its text, if that is shown."""
    params = sequence.request.params
    assert isinstance(params, SamplingParams)
    sequence.finish_reason = "stop"
    sequence.stop_reason = token if token in params.stop_token_ids else None
    if not params.include_stop_str_in_output or sequence.text_stream is None:
        return ""
    text = sequence.text_stream.push(token)
    if text and sequence.stop_strings is not None:
        text = _search(sequence, text, may_stop=False)
    return text


def _search(sequence: Sequence, text: str, may_stop: bool) -> str:
    """What of ``text`` can be shown; a stop string in it ends the sequence."""
    assert sequence.stop_strings is not None
    text, stop = sequence.stop_strings.push(text, may_stop)
    if stop is not None:
        sequence.finish_reason, sequence.stop_reason = "stop", stop
    return text


def _flush_text(sequence: Sequence) -> str:
    """What was held back of a sequence that has ended. A stop string may be complete in it, where
    a tokenizer's decoder gives text at the end."""
    if sequence.text_stream is None:
        return ""
    rest = sequence.text_stream.flush()
    if sequence.stop_strings is None:
        return rest
    may_stop = sequence.finish_reason == "length"
    text = _search(sequence, rest, may_stop) if rest else ""
    return text + ("" if isinstance(sequence.stop_reason, str) else sequence.stop_strings.flush())


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
