"""Before anything is timed: conversion, agreement with gpt2fast in float32, and perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gpt2fast.bench import peers
from gpt2fast.bench.grid import NATIVE, Model, Variant, widest
from gpt2fast.bench.pool import options_of, random_prompts
from gpt2fast.bench.process import WorkerError
from gpt2fast.bench.session import Session
from gpt2fast.evaluate.text import Text

_PROMPT, _TOKENS = 16, 32
# In half precision a near tie may fall the other way; a wrong model differs at once.
_NARROW_AGREEMENT = 8


@dataclass
class Probe:
    """What is known of a variant before it is timed. ``agreement``: tokens before the first that
    differs from gpt2fast's in float32, out of ``agreement_of``."""

    status: str = "ok"
    reason: str = ""
    artifact: Path | None = None
    versions: dict[str, str] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    agreement: int | None = None
    agreement_of: int | None = None
    quality: dict[str, float] = field(default_factory=dict)


class Prober:
    """Probes variants, each in a process of its own, and keeps what it learns of each."""

    def __init__(
        self,
        work: Path,
        threads: int,
        timeout: float,
        texts: dict[str, Text],
        say: Callable[[str], None],
    ) -> None:
        self._work = work
        self._threads = threads
        self._timeout = timeout
        self._texts = texts  # by the label of the model
        self._say = say
        self._done: dict[Variant, Probe] = {}
        self._references: dict[str, tuple[list[int], list[bool]]] = {}

    def probe_all(self, variants: Iterable[Variant]) -> dict[Variant, Probe]:
        """A probe of each variant; one that must not be timed has a status other than "ok"."""
        return {variant: self._checked(variant) for variant in dict.fromkeys(variants)}

    def _checked(self, variant: Variant) -> Probe:
        probe = self._probe(variant)
        if probe.status != "ok" or variant.system == NATIVE:
            return probe
        best = Variant(variant.system, widest(variant.model, variant.system), variant.model)
        full = self._probe(best)
        if full.status != "ok":
            return _refusal(full.status, f"as {best.format}, before timing: {full.reason}")
        assert full.agreement is not None
        assert full.agreement_of is not None
        needed = full.agreement_of
        if best.format != variant.model.reference_format:
            needed = min(needed, _NARROW_AGREEMENT)
        if full.agreement < needed:
            return _refusal(
                "mismatch",
                f"its {best.format} greedy tokens differ from gpt2fast's "
                f"{variant.model.reference_format} ones at token {full.agreement}; nothing was "
                "timed",
            )
        return probe

    def _probe(self, variant: Variant) -> Probe:
        if variant not in self._done:
            self._done[variant] = self._measure(variant)
        return self._done[variant]

    def _measure(self, variant: Variant) -> Probe:
        if reason := peers.missing(variant.system):
            return _refusal("missing", reason)
        self._say(f"checking {variant.model.label} {variant.name}")
        probe = Probe()
        try:
            self._run(variant, probe)
            reference, ties = self._reference(variant.model)
        except WorkerError as error:
            return _refusal(error.kind, error.reason)
        probe.agreement = agreement(probe.tokens, reference, ties)
        probe.agreement_of = len(reference)
        return probe

    def _run(self, variant: Variant, probe: Probe) -> None:
        # A converter can take several times the memory of the model; memory and start-up are
        # measured in other processes, which find the converted model.
        session = Session(variant.system, self._work, self._threads, self._timeout)
        try:
            probe.versions = session.ask("versions")["versions"]
            path = str(variant.model.path)
            answer = session.ask("convert", checkpoint=path, format=variant.format)
            probe.artifact = Path(answer["artifact"])
            self._question(session, variant, probe)
        finally:
            session.kill()

    def _question(self, session: Session, variant: Variant, probe: Probe) -> None:
        prompt, count = _question(variant.model)
        text = self._texts.get(variant.model.label)
        session.ask(
            "load",
            artifact=str(probe.artifact),
            format=variant.format,
            threads=self._threads,
            context=max(len(prompt) + count, text.protocol.context if text else 0),
            batch=1,
            options=options_of(variant),
        )
        answer = session.ask("generate", prompts=[prompt], new_tokens=count)
        probe.tokens = answer["tokens"][0]
        if text is not None:
            probe.quality = _quality(session, text)
        if variant == Variant(NATIVE, variant.model.reference_format, variant.model):
            ties = session.ask("ties", prompt=prompt, tokens=probe.tokens)["ties"]
            self._references[variant.model.label] = (probe.tokens, ties)

    def _reference(self, model: Model) -> tuple[list[int], list[bool]]:
        if model.label not in self._references:
            fmt = model.reference_format
            probe = self._probe(Variant(NATIVE, fmt, model))
            if probe.status != "ok":
                raise WorkerError(probe.status, f"gpt2fast {fmt}, to compare with: {probe.reason}")
        return self._references[model.label]


def agreement(tokens: list[int], reference: list[int], ties: list[bool]) -> int:
    """Equal tokens before the first difference; behind a tie the texts part, and that is no fault,
    so a difference at a tie counts as agreement to the end."""
    pairs = zip(tokens, reference, ties, strict=True)
    for position, (mine, theirs, tie) in enumerate(pairs):
        if mine != theirs:
            return len(reference) if tie else position
    return len(reference)


def _question(model: Model) -> tuple[list[int], int]:
    """A prompt and how many tokens to continue it by, shorter for a tiny context."""
    config = model.config
    length = max(1, min(_PROMPT, config.n_positions // 3))
    count = max(1, min(_TOKENS, config.n_positions - length - 1))
    return random_prompts(config.vocab_size, 1, length)[0], count


def _quality(session: Session, text: Text) -> dict[str, float]:
    total = 0.0
    for window in text.windows:
        nats = session.ask("nats", tokens=window.tokens, counted=window.counted)["nats"]
        if nats is None:
            return {}
        total += nats
    return text.quality(total / text.num_tokens)


def _refusal(status: str, reason: str) -> Probe:
    return Probe(status=status, reason=reason)
