"""What happens to a sequence as tokens come: text, stop strings, the reason of its end."""

from __future__ import annotations

import pytest

from gpt2fast.engine.input_processor import build_request
from gpt2fast.engine.output_processor import append_tokens, start_text
from gpt2fast.engine.outputs import Delta
from gpt2fast.engine.sequence import Sequence
from gpt2fast.errors import CheckpointError
from gpt2fast.sampling_params import SamplingParams
from support.engine.mock_runner import mock_config

A, B, STOP = 97, 98, 256


class HeldBack:
    """Text that comes at the end, as from a decoder that a later token can make change its mind."""

    def __init__(self) -> None:
        self.text = ""

    def push(self, token: int) -> str:
        self.text += chr(token)
        return ""

    def flush(self) -> str:
        return self.text


def make_sequence(params: SamplingParams) -> Sequence:
    request = build_request(mock_config(), [1, 2], params)
    sequence = Sequence(request, 0, request.prompt_token_ids)
    start_text(sequence, None)
    return sequence


def appended(sequence: Sequence, tokens: list[int]) -> list[Delta]:
    deltas: list[Delta] = []
    append_tokens(sequence, tokens, deltas)
    return deltas


def test_tokens_after_the_last_are_dropped() -> None:
    sequence = make_sequence(SamplingParams(max_tokens=3))
    deltas = appended(sequence, [A, B, A, B, A])
    assert sequence.token_ids == [1, 2, A, B, A]
    assert [delta.finish_reason for delta in deltas] == [None, None, "length"]


def test_a_stop_token_ends_a_call_of_several_steps() -> None:
    sequence = make_sequence(SamplingParams(max_tokens=9, min_tokens=2))
    deltas = appended(sequence, [STOP, A, STOP, B])
    assert sequence.token_ids == [1, 2, STOP, A, STOP]  # the first came before min_tokens
    assert deltas[-1].finish_reason == "stop"
    assert sequence.stop_reason is None


def test_a_stop_string_in_flushed_text_ends_it() -> None:
    sequence = make_sequence(SamplingParams(max_tokens=4, stop_token_ids=[STOP]))
    sequence.request.params = SamplingParams(max_tokens=4, stop="b")
    sequence.text_stream = HeldBack()
    start_text(sequence, Detokenizes(sequence.text_stream))  # type: ignore[arg-type]
    deltas = appended(sequence, [A, A, B, A])
    assert [delta.text for delta in deltas] == ["", "", "", "aa"]
    assert (sequence.finish_reason, sequence.stop_reason) == ("stop", "b")


class Detokenizes:
    """Gives one stream."""

    def __init__(self, stream: HeldBack) -> None:
        self._stream = stream

    def stream(self, skip_special_tokens: bool) -> HeldBack:
        return self._stream


def test_a_token_that_could_not_be_chosen_is_an_error() -> None:
    sequence = make_sequence(SamplingParams(max_tokens=4))
    with pytest.raises(CheckpointError, match="logit"):
        appended(sequence, [A, -1, B])
    assert sequence.token_ids == [1, 2, A]
