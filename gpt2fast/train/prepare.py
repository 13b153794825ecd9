"""Everything a run needs before its first step, made once and kept in ``OUT/run``."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gpt2fast.checkpoint.tokenizer import load_tokenizer
from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.train.checkpointing import CHECKPOINTS, latest_checkpoint
from gpt2fast.train.corpus import Corpus, load_corpus
from gpt2fast.train.data import WindowSampler, tokenize
from gpt2fast.train.disk import check_disk, make_directory
from gpt2fast.train.guard import refuse_overwriting_model, refuse_training_in_place
from gpt2fast.train.memory import check_memory
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.tokenizer import END_OF_TEXT, train_tokenizer

_AGAIN = "or train again in another --out"


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


def run_directory(options: TrainOptions) -> Path:
    """Where the prepared run is kept."""
    return Path(options.out) / "run"


def prepare(options: TrainOptions, on_cpu: bool) -> None:
    """Read the corpus, get a tokenizer, tokenize, and write ``OUT/run``; on resume, only check that
    the options are those of the run. One process does this, then each calls ``load_prepared``.

    All that can be refused is refused before the first file is written. A run without a checkpoint
    has nothing to go on from and is prepared anew.
    """
    directory = run_directory(options)
    record = directory / "run.json"
    refuse_training_in_place(options)
    latest = latest_checkpoint(Path(options.out) / CHECKPOINTS)
    if options.resume and latest:
        options.check_resumes(_read_record(record)["options"])
        return
    if options.resume and not record.exists():
        raise OptionError(f"--resume: {record} does not exist; start the run without --resume")
    if latest and not record.exists():
        raise OptionError(
            f"--out {options.out} holds checkpoints of a run ({latest}), but {record} is missing; "
            "choose another directory"
        )
    if latest:
        raise OptionError(
            f"--out {options.out} already holds a training run: add --resume to go on with it, or "
            "choose another directory"
        )
    refuse_overwriting_model(options)
    if options.resume:
        warnings.warn(
            f"--resume: {options.out} has no checkpoint yet; starting at step 0", stacklevel=2
        )
    _check_shape(options, on_cpu)
    _write_prepared(options, directory, record)


def _check_shape(options: TrainOptions, on_cpu: bool) -> None:
    config = _config(options, None, _given_tokenizer(options))
    check_context(options, config)
    check_disk(options.out, config.num_parameters, options.keep)
    check_memory(config.num_parameters, on_cpu)


def check_context(options: TrainOptions, config: ModelConfig) -> int:
    """Tokens of a training sequence. Raises OptionError if the model has fewer positions."""
    context = options.context or config.n_positions
    if context > config.n_positions:
        raise OptionError(
            f"--context {context} exceeds the model's {config.n_positions} positions; give at most "
            "as many"
        )
    return context


def _write_prepared(options: TrainOptions, directory: Path, record: Path) -> None:
    corpus = load_corpus(options.data, options.corpus, options.held_out, options.held_out_data)
    tokenizer = _tokenizer(options, corpus)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config = _config(options, end_of_text, tokenizer)
    train_tokens = tokenize(tokenizer, corpus.train, end_of_text)
    held_out_tokens = tokenize(tokenizer, corpus.held_out, end_of_text)
    _check_vocabulary(options, config, train_tokens, held_out_tokens)
    WindowSampler(train_tokens, check_context(options, config), options.seed)
    make_directory(options.out, directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    np.save(directory / "train.npy", train_tokens)
    np.save(directory / "held_out.npy", held_out_tokens)
    facts = {"options": options.as_dict(), "end_of_text": end_of_text, "corpus": corpus.summary()}
    record.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _check_vocabulary(
    options: TrainOptions, config: ModelConfig, *sides: NDArray[np.int32]
) -> None:
    largest = max(int(tokens.max(initial=0)) for tokens in sides)
    if largest >= config.vocab_size:
        raise OptionError(
            f"the tokenizer gives id {largest}, but the model of --init {options.init} has a "
            f"vocabulary of {config.vocab_size}; use the tokenizer it was trained with"
        )


def _tokenizer(options: TrainOptions, corpus: Corpus) -> Tokenizer:
    if given := _given_tokenizer(options):
        return given
    if options.init is None:
        texts = (document.text for document in corpus.train)
        return train_tokenizer(texts, options.shape("vocab_size"))
    from gpt2fast.checkpoint import open_checkpoint

    tokenizer = open_checkpoint(options.init).load_tokenizer()
    if tokenizer is None:
        raise CheckpointError(f"{options.init} has no tokenizer files; --init needs its tokenizer")
    return tokenizer


def _given_tokenizer(options: TrainOptions) -> Tokenizer | None:
    """That of ``--tokenizer``. Raises OptionError if there is none in that directory."""
    if options.tokenizer is None:
        return None
    tokenizer = load_tokenizer(Path(options.tokenizer))
    if tokenizer is None:
        raise OptionError(
            f"--tokenizer {options.tokenizer}: no tokenizer there; give a directory with "
            "tokenizer.json, or with vocab.json and merges.txt"
        )
    return tokenizer


def load_prepared(options: TrainOptions) -> PreparedRun:
    """Read ``OUT/run`` back. Raises OptionError if a token is outside the model's vocabulary, and
    CheckpointError, naming the file, if one of them is damaged."""
    directory = run_directory(options)
    record = _read_record(directory / "run.json")
    tokenizer = _read_tokenizer(directory / "tokenizer.json")
    run = PreparedRun(
        config=_config(options, record["end_of_text"], tokenizer),
        tokenizer=tokenizer,
        end_of_text=record["end_of_text"],
        train_tokens=_read_tokens(directory / "train.npy"),
        held_out_tokens=_read_tokens(directory / "held_out.npy"),
        corpus=record["corpus"],
    )
    _check_vocabulary(options, run.config, run.train_tokens, run.held_out_tokens)
    return run


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"--resume: {path} does not exist; restore it, {_AGAIN}")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record["corpus"]["held_out"]["bytes"], int) and "end_of_text" in record:
            return {**record, "options": dict(record["options"])}
    except (ValueError, KeyError, TypeError):
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


def _config(
    options: TrainOptions, end_of_text: int | None, tokenizer: Tokenizer | None
) -> ModelConfig:
    if options.init is not None:
        from gpt2fast.checkpoint import open_checkpoint

        return open_checkpoint(options.init).config
    width, vocabulary = options.shape("n_embd"), options.shape("vocab_size")
    if options.tokenizer and tokenizer:
        vocabulary = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    return ModelConfig(
        vocab_size=vocabulary,
        n_positions=options.shape("n_positions"),
        n_embd=width,
        n_layer=options.shape("n_layer"),
        n_head=options.shape("n_head"),
        n_inner=options.n_inner or 4 * width,
        activation_function=options.activation or "gelu_new",
        tie_word_embeddings=not options.untied,
        bos_token_id=end_of_text,
        eos_token_ids=() if end_of_text is None else (end_of_text,),
    )
