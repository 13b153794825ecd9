"""Everything a run needs before its first step, made once and kept in ``OUT/run``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.train.corpus import Corpus, load_corpus
from gpt2fast.train.data import tokenize
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.tokenizer import END_OF_TEXT, train_tokenizer


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


def prepare(options: TrainOptions) -> None:
    """Read the corpus, get a tokenizer, tokenize, and write ``OUT/run``; on resume, only check that
    the options are those of the run. One process does this, then each calls ``load_prepared``."""
    directory = run_directory(options)
    record = directory / "run.json"
    if options.resume:
        options.check_resumes(_read_record(record)["options"])
        return
    if record.exists():
        raise OptionError(
            f"--out {options.out} already holds a training run: add --resume to go on with it, or "
            "choose another directory"
        )
    corpus = load_corpus(options.data, options.corpus, options.held_out, options.held_out_data)
    tokenizer = _tokenizer(options, corpus)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    np.save(directory / "train.npy", tokenize(tokenizer, corpus.train, end_of_text))
    np.save(directory / "held_out.npy", tokenize(tokenizer, corpus.held_out, end_of_text))
    facts = {"options": options.as_dict(), "end_of_text": end_of_text, "corpus": corpus.summary()}
    # Last, so that a run that was interrupted here is not taken for a prepared one.
    record.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _tokenizer(options: TrainOptions, corpus: Corpus) -> Tokenizer:
    if options.init is None:
        texts = (document.text for document in corpus.train)
        return train_tokenizer(texts, options.shape("vocab_size"))
    from gpt2fast.checkpoint import open_checkpoint

    tokenizer = open_checkpoint(options.init).load_tokenizer()
    if tokenizer is None:
        raise CheckpointError(f"{options.init} has no tokenizer files; --init needs its tokenizer")
    return tokenizer


def load_prepared(options: TrainOptions) -> PreparedRun:
    """Read ``OUT/run`` back. Raises OptionError if a token is outside the model's vocabulary."""
    directory = run_directory(options)
    record = _read_record(directory / "run.json")
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    run = PreparedRun(
        config=_config(options, record["end_of_text"]),
        tokenizer=tokenizer,
        end_of_text=record["end_of_text"],
        train_tokens=np.load(directory / "train.npy", mmap_mode="r"),
        held_out_tokens=np.load(directory / "held_out.npy", mmap_mode="r"),
        corpus=record["corpus"],
    )
    largest = int(max(run.train_tokens.max(initial=0), run.held_out_tokens.max(initial=0)))
    if largest >= run.config.vocab_size:
        raise OptionError(
            f"the tokenizer gives id {largest}, but the model of --init {options.init} has a "
            f"vocabulary of {run.config.vocab_size}; use the tokenizer it was trained with"
        )
    return run


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise OptionError(f"--resume: {path} does not exist; start the run without --resume")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _config(options: TrainOptions, end_of_text: int | None) -> ModelConfig:
    if options.init is not None:
        from gpt2fast.checkpoint import open_checkpoint

        return open_checkpoint(options.init).config
    width = options.shape("n_embd")
    return ModelConfig(
        vocab_size=options.shape("vocab_size"),
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
