"""The task of ``gpt2fast train``: pre-training from scratch, or fine-tuning a model."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.tokenizer import load_tokenizer
from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.model.weights import load_weights
from gpt2fast.train.corpus import Corpus
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.task import Task
from gpt2fast.train.tokenizer import train_tokenizer


class Training(Task):
    """Next tokens of text, from random weights or from those of ``--init``."""

    def __init__(self, options: TrainOptions) -> None:
        self.options: TrainOptions = options

    def sources(self) -> dict[str, str]:
        """The model of ``--init``."""
        return {} if self.options.init is None else {"--init": self.options.init}

    def given_tokenizer(self) -> Tokenizer | None:
        """That of ``--init`` or ``--tokenizer``. Raises OptionError if there is none in that
        directory."""
        options = self.options
        if options.init is not None:
            return model_tokenizer("--init", options.init)
        if options.tokenizer is None:
            return None
        tokenizer = load_tokenizer(Path(options.tokenizer))
        if tokenizer is None:
            raise OptionError(
                f"--tokenizer {options.tokenizer}: no tokenizer there; give a directory with "
                "tokenizer.json, or with vocab.json and merges.txt"
            )
        return tokenizer

    def train_tokenizer(self, corpus: Corpus) -> Tokenizer:
        """Byte-level BPE of ``--vocab-size`` tokens."""
        texts = (document.text for document in corpus.train)
        return train_tokenizer(texts, self.options.shape("vocab_size"))

    def tokenizer_source(self) -> Path | None:
        """The directory of ``--tokenizer`` or ``--init``."""
        if self.options.tokenizer is not None:
            return Path(self.options.tokenizer)
        return None if self.options.init is None else open_checkpoint(self.options.init).path

    def config(self, end_of_text: int | None, tokenizer: Tokenizer | None) -> ModelConfig:
        """The model's own, or that of the flags."""
        options = self.options
        if options.init is not None:
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

    def network(self, config: ModelConfig) -> GPT2:
        """Random weights, or those of ``--init``."""
        network = GPT2(config, self.options.dropout)
        if self.options.init is not None:
            load_weights(network, open_checkpoint(self.options.init))
        return network


def model_tokenizer(flag: str, model: str) -> Tokenizer:
    """The tokenizer that the model of ``flag`` brings. Raises CheckpointError if it has none."""
    tokenizer = open_checkpoint(model).load_tokenizer()
    if tokenizer is None:
        raise CheckpointError(f"{model} has no tokenizer files; {flag} needs its tokenizer")
    return tokenizer
