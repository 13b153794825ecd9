"""Everything a run needs before its first step, made once and kept in ``OUT/run``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.files.atomic import clear_all_abandoned, staged_file
from gpt2fast.files.disk import make_directory
from gpt2fast.files.json_file import read_json_object, write_json
from gpt2fast.files.lock import exclusive
from gpt2fast.train.checkpointing import (
    CHECKPOINTS,
    check_room_for_run,
    latest_checkpoint,
)
from gpt2fast.train.corpus import load_corpus
from gpt2fast.train.data import tokenize
from gpt2fast.train.finish import finished_record
from gpt2fast.train.guard import refuse_overwriting_model, refuse_training_in_place
from gpt2fast.train.memory import check_memory
from gpt2fast.train.run_options import TextOptions
from gpt2fast.train.task import Task
from gpt2fast.train.tokenizer import END_OF_TEXT

_AGAIN = "or choose another directory"

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class PreparedRun:
    """Tokens, tokenizer and shape of a run. The same on every process and after a resume."""

    config: ModelConfig
    tokenizer: Tokenizer
    end_of_text: int | None
    train_tokens: NDArray[np.int32]  # (N,)
    held_out_tokens: NDArray[np.int32]  # (M,)
    corpus: dict[str, Any]  # documents, bytes and SHA-256 of each side

    @property
    def held_out_bytes(self) -> int:
        """UTF-8 bytes of the held-out text."""
        return int(self.corpus["held_out"]["bytes"])


def run_directory(options: TextOptions) -> Path:
    """Where the prepared run is kept."""
    return Path(options.out) / "run"


def prepare(task: Task, on_cpu: bool, held: ExitStack) -> None:
    """Read the corpus, get a tokenizer, tokenize, and write ``OUT/run``; where there is a run to go
    on with, only check that the task is that of the run. One process does this, then each calls
    ``load_prepared``.

    All that can be refused is refused before the first file is written. A run without a checkpoint
    has nothing to go on from and is prepared anew. No other run may work in ``OUT`` until ``held``
    is closed.
    """
    options = task.options
    directory = run_directory(options)
    record = directory / "run.json"
    refuse_training_in_place(task)
    out = Path(options.out)
    if is_there := out.is_dir():
        _claim(out, held)
    if finished_record(task) is not None:
        return
    if latest_checkpoint(out / CHECKPOINTS):
        _check_resumes(task, record)
        return
    refuse_overwriting_model(options)
    _check_shape(task, on_cpu)
    prepared = _prepared(task)
    make_directory(options.out, directory, "--out")
    if not is_there:
        _claim(out, held)
    _write_prepared(directory, *prepared)


def _claim(out: Path, held: ExitStack) -> None:
    """Keep others out of ``out``, and remove what a killed run has left there."""
    held.enter_context(exclusive(out))
    clear_all_abandoned(out)


def _check_resumes(task: Task, path: Path) -> None:
    record = _read_record(path)
    task.options.check_resumes(record["options"])
    recorded = record.get("facts", {})
    for name, fact in task.facts().items():
        if fact != recorded.get(name):
            raise OptionError(
                f"{name} is {fact}, but was {recorded.get(name)} when the run in "
                f"{task.options.out} was started; restore it, {_AGAIN}"
            )


def _check_shape(task: Task, on_cpu: bool) -> None:
    options, config = task.options, task.config(None, task.given_tokenizer())
    check_context(options.context, config)
    check_room_for_run(options.out, config.num_parameters, options.keep)
    check_memory(config.num_parameters, on_cpu)


def check_context(given: int | None, config: ModelConfig) -> int:
    """Tokens of a training sequence. Raises OptionError if the model has fewer positions."""
    context = given or config.n_positions
    if context > config.n_positions:
        raise OptionError(
            f"--context {context} exceeds the model's {config.n_positions} positions; give at most "
            "as many"
        )
    return context


def _prepared(task: Task) -> tuple[Tokenizer, Tokens, Tokens, dict[str, Any]]:
    """The tokenizer, the tokens of both sides, and what is put on record."""
    options = task.options
    corpus = load_corpus(options.data, options.corpus, options.held_out, options.held_out_data)
    tokenizer = task.given_tokenizer() or task.train_tokenizer(corpus)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config = task.config(end_of_text, tokenizer)
    train_tokens = tokenize(tokenizer, corpus.train, end_of_text)
    held_out_tokens = tokenize(tokenizer, corpus.held_out, end_of_text)
    _check_vocabulary(task, config, train_tokens, held_out_tokens)
    task.sampler(train_tokens, check_context(options.context, config))
    facts = {
        "options": options.as_dict(),
        "facts": task.facts(),
        "end_of_text": end_of_text,
        "corpus": corpus.summary(),
    }
    return tokenizer, train_tokens, held_out_tokens, facts


def _write_prepared(
    directory: Path, tokenizer: Tokenizer, train: Tokens, held_out: Tokens, facts: dict[str, Any]
) -> None:
    with staged_file(directory / "tokenizer.json") as stage:
        tokenizer.save(str(stage))
    for name, tokens in (("train", train), ("held_out", held_out)):
        with staged_file(directory / f"{name}.npy") as stage, stage.open("wb") as file:
            np.save(file, tokens)
    write_json(directory / "run.json", facts)


def _check_vocabulary(task: Task, config: ModelConfig, *sides: NDArray[np.int32]) -> None:
    largest = max(int(tokens.max(initial=0)) for tokens in sides)
    if largest >= config.vocab_size:
        model = " and ".join(f"{flag} {name}" for flag, name in task.sources().items())
        raise OptionError(
            f"the tokenizer gives id {largest}, but the model of {model} has a vocabulary of "
            f"{config.vocab_size}; use the tokenizer it was trained with"
        )


def load_prepared(task: Task) -> PreparedRun:
    """Read ``OUT/run`` back. Raises OptionError if a token is outside the model's vocabulary, and
    CheckpointError, naming the file, if one of them is damaged."""
    directory = run_directory(task.options)
    record = _read_record(directory / "run.json")
    tokenizer = _read_tokenizer(directory / "tokenizer.json")
    run = PreparedRun(
        config=task.config(record["end_of_text"], tokenizer),
        tokenizer=tokenizer,
        end_of_text=record["end_of_text"],
        train_tokens=_read_tokens(directory / "train.npy"),
        held_out_tokens=_read_tokens(directory / "held_out.npy"),
        corpus=record["corpus"],
    )
    _check_vocabulary(task, run.config, run.train_tokens, run.held_out_tokens)
    return run


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist, but there are checkpoints of a run; restore it, {_AGAIN}"
        )
    try:
        record = read_json_object(path)
        if isinstance(record["corpus"]["held_out"]["bytes"], int) and "end_of_text" in record:
            return {**record, "options": dict(record["options"])}
    except (CheckpointError, KeyError, TypeError, ValueError):
        pass
    raise _damaged(path)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # tokenizers raises nothing more precise
        raise _damaged(path) from None


def _read_tokens(path: Path) -> NDArray[np.int32]:
    try:
        tokens = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError):
        raise _damaged(path) from None
    if tokens.dtype != np.int32 or tokens.ndim != 1:
        raise _damaged(path)
    return cast("NDArray[np.int32]", tokens)


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is missing or damaged; restore it, {_AGAIN}")
