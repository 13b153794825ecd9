"""Whole models: agreement, decoding and prompts, ours beside transformers and torch.compile."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from gpt2fast.bench.process import WorkerError
from gpu import rows
from gpu.fleet import BASE, REFERENCE, Fleet, Member

ROUNDS, PROMPT_ROUNDS = 5, 5
PREFILL = (128, 512, 1000)
_SEEDS, _AGREEMENT_TOKENS = [101, 102, 103], 64
_ASK_SECONDS = 60.0

Answers = dict[str, dict[str, Any]]


def run(recorder: rows.Recorder, fleet: Fleet) -> None:
    """Each size for an equal share of the time that is left; the most telling cases first."""
    for row in fleet.rows:
        recorder.add(row)
    end = recorder.end
    for i, size in enumerate(fleet.sizes):
        recorder.end = end - recorder.left() * (1 - 1 / (len(fleet.sizes) - i))
        team = Team(size, fleet.members.get(size, {}), recorder)
        for name, needs, case in team.cases():
            recorder.case(f"{size} {name}", needs, case, "gpt2fast")
        recorder.end = end
        fleet.release(size)


class Team:
    """All systems on one size; one that dies is left out from then on."""

    def __init__(self, size: str, members: dict[str, Member], recorder: rows.Recorder) -> None:
        self.size, self.members, self.recorder = size, members, recorder

    def cases(self) -> list[tuple[str, float, Callable[[], None]]]:
        """Name, seconds that it needs at least, and the case."""
        return [
            ("agreement", 5, self.agreement),
            ("decode b1", 5, partial(self.decode, 1)),
            ("prefill", 3, self.prefill),
            ("loop", 5, self.loop),
            ("decode b32", 8, partial(self.decode, 32)),
            ("decode b128", 8, partial(self.decode, 128)),
        ]

    def agreement(self) -> None:
        """Greedy tokens against those of transformers in float32, up to the first that differs.

        Float32 of ours has to agree, but for one near tie; smaller formats have to begin alike.
        """
        found = self._ask_all({"do": "tokens", "seeds": _SEEDS, "new": _AGREEMENT_TOKENS})
        want = found.pop(REFERENCE, {}).get("tokens")
        self._dismiss(REFERENCE)
        if want is None:
            raise RuntimeError("there are no tokens of transformers in float32 to compare with")
        for name, answer in found.items():
            pairs = zip(answer["tokens"], want, strict=True)
            equal = [_leading(mine, theirs) for mine, theirs in pairs]
            exact = sum(n == _AGREEMENT_TOKENS for n in equal)
            is_wrong = exact < len(equal) - 1 if name == "gpt2fast float32" else False
            is_wrong |= name.endswith("float16") and not any(equal)
            text = f"{sum(equal)}/{_AGREEMENT_TOKENS * len(equal)}"
            status = rows.WRONG if is_wrong else rows.OK
            message = f"{text} tokens agree" if is_wrong else ""
            self._add("agrees", name, text, status=status, message=message, equal=equal)
        self._dismiss("gpt2fast float32")

    def decode(self, batch: int) -> None:
        """Seconds a step, the systems taking turns; ratios are taken within the rounds."""
        names = [name for name, m in self.members.items() if batch in m.batches]
        self._ask_all({"do": "warm", "batch": batch}, names)
        found = self._rounds({"do": "decode", "batch": batch}, "step", names, ROUNDS)
        for name, steps in found.items():
            p50, at = statistics.median(steps.values()), f"decode b{batch}"
            text = f"{p50 * 1e6:.0f}us/tok" if batch == 1 else f"{batch / p50:.0f}tok/s"
            rate = {"tokens_per_second": batch / p50}
            self._add(at, name, text + self._ratio(name, steps, found), **_spread(steps), **rate,
                      ratio=_ratios(steps, found.get(BASE, {})))  # fmt: skip

    def prefill(self) -> None:
        """Seconds to the first token of a prompt alone."""
        names = [name for name, member in self.members.items() if member.prefill]
        for length in PREFILL:
            request = {"do": "prefill", "length": length}
            self._ask_all({**request, "seed": 0}, names)
            found = self._rounds(request, "seconds", names, PROMPT_ROUNDS)
            for name, seconds in found.items():
                p50 = statistics.median(seconds.values())
                text = f"{p50 * 1e3:.2f}ms" + self._ratio(name, seconds, found)
                rate = {"tokens_per_second": length / p50}
                self._add(f"prefill {length}", name, text, **_spread(seconds), **rate,
                          ratio=_ratios(seconds, found.get(BASE, {})))  # fmt: skip

    def loop(self) -> None:
        """What a decoded token asks of CUDA."""
        found = self._ask_all({"do": "profile"}, [BASE]).get(BASE)
        if found is None:
            return
        text = (
            f"{found['waits_a_token']:.2f} waits, {found['cuda_allocations_a_token']:.2f} "
            f"cudaMalloc, {found['torch_allocations_a_token']:.2f} torch allocations a token"
        )
        self._add("loop", BASE, text, **found)

    def _rounds(
        self, request: dict[str, Any], field: str, names: list[str], count: int
    ) -> dict[str, dict[int, float]]:
        """What each system answered, by round."""
        found: dict[str, dict[int, float]] = {}
        longest = 0.0
        for number in range(count):
            left = self.recorder.left()
            if left < 1.2 * longest + 1:
                break
            for name in names:
                asked = {**request, "seed": number + 1}
                answers = self._ask_all(asked, [name])
                if name in answers:
                    found.setdefault(name, {})[number] = answers[name][field]
            longest = max(longest, left - self.recorder.left())
        return found

    def _ask_all(self, request: dict[str, Any], names: list[str] | None = None) -> Answers:
        """The answers of ``names``, at the same time; a row for each that has none."""
        asked = [name for name in self.members if names is None or name in names]
        found: Answers = {}
        problems: dict[str, WorkerError] = {}
        for name in asked:
            try:
                self.members[name].child.send(request)
            except WorkerError as error:  # noqa: PERF203
                problems[name] = error
        for name in (name for name in asked if name not in problems):
            try:
                found[name] = self.members[name].child.answer(self._patience())
            except WorkerError as error:  # noqa: PERF203
                problems[name] = error
        for name, problem in problems.items():
            what = " ".join(str(value) for key, value in request.items() if key != "seed")
            self._add(what, name, status=rows.ERROR, message=str(problem))
            if problem.is_lost:
                self._dismiss(name)
        return found

    def _patience(self) -> float:
        return min(_ASK_SECONDS, max(self.recorder.left(), 1.0))

    def _dismiss(self, name: str) -> None:
        if name in self.members:
            self.members.pop(name).child.kill()

    def _add(self, at: str, name: str, text: str = "", **fields: Any) -> None:
        self.recorder.add(rows.make_row(self.size, at, name, text, **fields))

    @staticmethod
    def _ratio(name: str, mine: dict[int, float], found: dict[str, dict[int, float]]) -> str:
        ratio = _ratios(mine, found.get(BASE, {}))
        return f" ({ratio:.2f}x)" if ratio is not None and name != BASE else ""


def _ratios(mine: dict[int, float], base: dict[int, float]) -> float | None:
    """Times that of ours in float16, the median over the rounds that both have."""
    ratios = [seconds / base[i] for i, seconds in mine.items() if i in base]
    return statistics.median(ratios) if ratios else None


def _spread(seconds: dict[int, float]) -> dict[str, Any]:
    ordered = sorted(seconds.values())
    last = len(ordered) - 1
    return {
        "p20": ordered[round(0.2 * last)],
        "p50": statistics.median(ordered),
        "p80": ordered[round(0.8 * last)],
        "rounds": len(ordered),
    }


def _leading(mine: list[int], theirs: list[int]) -> int:
    """Tokens before the first that differs."""
    pairs = enumerate(zip(mine, theirs, strict=True))
    return next((i for i, (a, b) in pairs if a != b), len(theirs))
