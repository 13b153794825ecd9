"""What others build on transformers' models: pipelines, Trainer, compilers, threads."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers.pipelines import SUPPORTED_TASKS

from support.hf_pair import (
    ANYWHERE,
    CACHE,
    NO_END,
    ON_THE_RUNNER,
    cache_of,
    close,
    pair,
    same,
    seeded,
    texts,
    torch,
    transformers,
)

WORDS = {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256}
SENTENCES = ["It was a bright cold day in April", "and the clocks", "were striking thirteen."]
TASKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "text-generation": (
        "GPT2LMHeadModel",
        lambda pipe: [
            pipe(SENTENCES, max_new_tokens=6, do_sample=False),
            pipe(SENTENCES, max_new_tokens=6, do_sample=False, batch_size=3),
            pipe(SENTENCES[0], max_new_tokens=6, num_return_sequences=3, do_sample=True),
            pipe(SENTENCES[0], max_new_tokens=6, num_beams=2, return_full_text=False),
            pipe(SENTENCES[0], max_new_tokens=6, return_tensors=True),
        ],
    ),
    "text-classification": (
        "GPT2ForSequenceClassification",
        lambda pipe: [pipe(SENTENCES, top_k=None), pipe(SENTENCES, batch_size=3)],
    ),
    "token-classification": (
        "GPT2ForTokenClassification",
        lambda pipe: [pipe(SENTENCES), pipe(SENTENCES[0], aggregation_strategy="first")],
    ),
    "question-answering": (
        "GPT2ForQuestionAnswering",
        lambda pipe: pipe(question="When was it?", context=" ".join(SENTENCES), top_k=3),
    ),
    "feature-extraction": ("GPT2Model", lambda pipe: pipe(SENTENCES, return_tensors=False)),
    "zero-shot-classification": (
        "GPT2ForSequenceClassification",
        lambda pipe: pipe(SENTENCES[:1], candidate_labels=["weather", "clocks"]),
    ),
}


@ANYWHERE
@pytest.mark.parametrize("task", TASKS)
def test_pipelines(task: str, tokenizer: Any) -> None:
    if task not in SUPPORTED_TASKS:
        pytest.skip(f"transformers {transformers.__version__} has no pipeline for {task}")
    kind, call = TASKS[task]
    results = []
    for model in pair(kind, num_labels=3, n_positions=128, **WORDS):
        pipe = transformers.pipeline(task, model=model, tokenizer=tokenizer)
        assert pipe.model is model
        results.append(seeded(lambda p=pipe: call(p)))
    assert len(str(results[1])) > 100
    same(*results)


class Sentences(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> Any:
        ids = texts(8)[row]
        return {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}


@ANYWHERE
@pytest.mark.parametrize("more", [{}, {"optim": "adamw_torch"}], ids=str)
def test_trainer(more: dict[str, Any], tmp_path: Path) -> None:
    """Evaluated before, trained for two steps, evaluated and asked behind."""
    pytest.importorskip("accelerate")
    results = []
    for model in pair():
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to=[],
            learning_rate=0.02, save_strategy="no", disable_tqdm=True, use_cpu=True, **more,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model, args=settings, train_dataset=Sentences(), eval_dataset=Sentences()
        )
        found = [trainer.evaluate()["eval_loss"], trainer.train().training_loss]
        found += [trainer.evaluate()["eval_loss"], trainer.predict(Sentences()).predictions[0]]
        results.append([found[:3], torch.as_tensor(found[3])])
        trainer.save_model(str(tmp_path / "saved"))
        assert (tmp_path / "saved" / "config.json").is_file()
    assert results[1][0][2] < results[1][0][0]
    same(*results)


@ANYWHERE
@pytest.mark.parametrize("how", ["function", "method"])
@torch.no_grad()
def test_torch_compile(how: str) -> None:
    """With the backend that runs what was captured as it stands: of the capture this is a test."""
    ours, theirs = pair()
    torch._dynamo.reset()
    if how == "function":
        compiled = torch.compile(ours, backend="eager")
        close(compiled(texts()).logits, theirs(texts()).logits)
    else:
        ours.compile(backend="eager")
        mask = torch.ones_like(texts())
        found, want = (
            model.generate(texts(), attention_mask=mask, max_new_tokens=3)
            for model in (ours, theirs)
        )
        assert torch.equal(found, want)
        close(
            ours(texts(2, 9), labels=texts(2, 9)).loss, theirs(texts(2, 9), labels=texts(2, 9)).loss
        )
    torch._dynamo.reset()


@ON_THE_RUNNER
def test_two_threads_generate_on_one_model() -> None:
    ours, theirs = pair()
    found: dict[int, Any] = {}

    def work(seed: int) -> None:
        ids = texts(2, 5 + seed)
        found[seed] = ours.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, **NO_END
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for seed, tokens in found.items():
        ids = texts(2, 5 + seed)
        want = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **NO_END)
        assert torch.equal(tokens, want)
    assert len(found) == 4


@ON_THE_RUNNER
def test_threads_in_different_calls() -> None:
    """Beams, loops of processors, caches handed on, classifiers on one network: at once."""
    ours, theirs = pair()
    ids = [texts(2, 6 + row) for row in range(12)]

    def call(model: Any, row: int) -> Any:
        given = {"attention_mask": torch.ones_like(ids[row]), "max_new_tokens": 12}
        if row % 4 == 0:
            return model.generate(ids[row], num_beams=3, do_sample=False, **given)
        if row % 4 == 1:
            return model.generate(ids[row], no_repeat_ngram_size=1, do_sample=False, **given)
        with torch.no_grad():
            if row % 4 == 2:
                return model(ids[row], labels=ids[row])
            cache, found = None, []
            for column in range(ids[row].shape[1]):
                output = model(ids[row][:, column : column + 1], **{CACHE: cache}, use_cache=True)
                cache, found = cache_of(output), [*found, output.logits]
            return found

    want = [call(theirs, row) for row in range(12)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda row: call(ours, row), list(range(12)) * 2))
    for each, other in zip(found, want * 2, strict=True):
        same(each, other)


@ON_THE_RUNNER
@torch.no_grad()
def test_threads_while_weights_change() -> None:
    """Others call while the weights are written; a call behind a change runs with all of it."""
    ours, theirs = pair()
    states, want = [], []
    for factor in (1.0, 1.5):
        for each in theirs.parameters():
            each.mul_(factor)
        states.append({name: each.clone() for name, each in theirs.state_dict().items()})
        want.append(theirs(texts()).logits)
    stop = threading.Event()

    def ask() -> int:
        count = 0
        with torch.no_grad():
            while not stop.is_set():
                assert ours(texts()).logits.shape == (3, 12, 211)
                count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        try:
            for turn in range(1, 31):
                ours.load_state_dict(states[turn % 2])
                close(ours(texts()).logits, want[turn % 2])
        finally:
            stop.set()
        assert min(each.result() for each in asked) > 0


class Slow:
    """A streamer that waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def put(self, value: Any) -> None:
        time.sleep(self.seconds)

    def end(self) -> None:
        pass


@ON_THE_RUNNER
def test_calls_that_overlap_leave_torch_its_threads() -> None:
    model, seen = pair()[0], {}
    before = torch.get_num_threads()

    def work(name: str, seconds: float, tokens: int) -> None:
        torch.set_num_threads(3)
        given = {**NO_END, "max_new_tokens": tokens, "attention_mask": torch.ones_like(texts(1))}
        model.generate(texts(1), streamer=Slow(seconds), **given)
        seen[name] = torch.get_num_threads()

    threads = [
        threading.Thread(target=work, args=args)
        for args in (("first", 0.02, 10), ("last", 0.03, 20))
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    later = threading.Thread(target=lambda: seen.update(later=torch.get_num_threads()))
    later.start()
    later.join()
    torch.set_num_threads(before)
    assert seen == {"first": 3, "last": 3, "later": 3}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_while_another_thread_generates() -> None:
    model, stop, before = pair()[0], threading.Event(), torch.get_num_threads()
    given = {**NO_END, "attention_mask": torch.ones_like(texts())}
    want = model.generate(texts(), **given)

    def serve() -> None:
        while not stop.is_set():
            model.generate(texts(), **given)

    def answer(into: Any) -> None:
        torch.set_num_threads(1)  # as workers of a DataLoader do
        into.put((model.generate(texts(), **given).tolist(), torch.get_num_threads()))

    torch.set_num_threads(2)
    thread = threading.Thread(target=serve)
    thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(5):
            answers = context.SimpleQueue()
            child = context.Process(target=answer, args=(answers,))
            child.start()
            child.join(30)
            hangs = child.is_alive()
            child.kill()
            assert not hangs
            assert answers.get() == (want.tolist(), 1)
    finally:
        stop.set()
        thread.join()
        torch.set_num_threads(before)
