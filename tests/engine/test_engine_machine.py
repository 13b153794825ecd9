"""Random adds, aborts and steps: results stay right and no block of the cache is lost."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpt2fast.errors import CacheExhaustedError
from gpt2fast.sampling_params import BeamSearchParams, SamplingParams
from support.engine.mock_runner import mock_config
from support.engine.oracle import assert_clean, expected_tokens, make_engine

N_POSITIONS = 32  # short, so that windows slide
PROMPTS = st.lists(st.sampled_from([1, 2, 299]), min_size=1, max_size=23)
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.5, 1.0]),
    n=st.integers(1, 3),
    max_tokens=st.integers(1, 60),
    seed=st.integers(0, 3),
    top_k=st.sampled_from([0, 3]),
    overflow=st.sampled_from(["stop", "slide"]),
)
GREEDY = st.builds(SamplingParams, temperature=st.just(0.0), max_tokens=st.integers(1, 9))
BEAMS = st.builds(BeamSearchParams, beam_width=st.integers(1, 3), max_tokens=st.integers(1, 8))


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(6, 40),
        block_size=st.sampled_from([2, 4]),
        max_batch_tokens=st.integers(1, 20),
        max_seqs=st.integers(1, 6),
        prefix_caching=st.booleans(),
        samples=st.booleans(),
    )
    def start(self, prefix_caching: bool, samples: bool, **options: int) -> None:
        config = mock_config(N_POSITIONS)
        self.engine = make_engine(prefix_caching, samples, config=config, **options)
        self.open: dict[str, tuple[list[int], Any]] = {}
        self.added = 0
        self.capacity = options["num_blocks"] * options["block_size"]

    @rule(prompt=PROMPTS, params=st.one_of(SAMPLING, GREEDY, BEAMS))
    def add(self, prompt: list[int], params: Any) -> None:
        self.added += 1
        request_id = self.engine.add_request(prompt, params, request_id=f"{self.added:06}")
        self.open[request_id] = (prompt, params)

    @rule(choice=st.randoms(use_true_random=False))
    def abort(self, choice: Any) -> None:
        if self.open:
            request_id = choice.choice(sorted(self.open))
            assert self.engine.abort(request_id)
            del self.open[request_id]

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        for output in self.engine.step().finished:
            prompt, params = self.open.pop(output.request_id)
            if output.error is not None:
                assert isinstance(output.error, CacheExhaustedError)
                assert len(prompt) + params.max_tokens > self.capacity
            elif isinstance(params, SamplingParams):
                for completion in output.outputs:
                    expected = expected_tokens(prompt, params, completion.index, N_POSITIONS)
                    if params.overflow == "stop":
                        expected = expected[: N_POSITIONS - len(prompt)]
                    assert completion.token_ids == expected
            else:
                assert 1 <= len(output.outputs[0].token_ids) <= params.max_tokens

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "engine"):
            stats = self.engine.stats()
            assert stats["used"] + stats["cached"] + stats["free"] == stats["num_blocks"]
            assert stats["sequences"] == stats["running"]

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            for _ in range(3000):
                if not self.engine.has_unfinished():
                    break
                self._step()
            assert self.open == {}
            assert_clean(self.engine)


EngineMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestEngineMachine = EngineMachine.TestCase
