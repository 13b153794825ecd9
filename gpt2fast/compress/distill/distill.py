"""The task of ``gpt2fast distill``: a student trained on text to predict as its teacher does."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.distill import fingerprint
from gpt2fast.compress.distill.objective import Distillation, check_context
from gpt2fast.compress.distill.options import DistillOptions
from gpt2fast.compress.distill.recover import sampled
from gpt2fast.compress.distill.student import (
    chosen_layers,
    evenly_spaced,
    student_config,
    student_from,
)
from gpt2fast.compress.progress import ProgressCallback
from gpt2fast.compress.state.model import frozen
from gpt2fast.config import ModelConfig
from gpt2fast.errors import OptionError
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.model.weights import load_weights
from gpt2fast.train.corpus import Corpus
from gpt2fast.train.data import FixedWindows, Sampler, WindowSampler
from gpt2fast.train.run import run_task
from gpt2fast.train.task import Task
from gpt2fast.train.training import model_tokenizer

if TYPE_CHECKING:
    from accelerate import Accelerator


def distill(options: DistillOptions, say: ProgressCallback = lambda line: None) -> dict[str, Any]:
    """Train a student as ``options`` say, write it to ``options.out``, return ``training.json``.

    A run that was interrupted goes on where it stopped; one that is finished is left as it is.
    Raises OptionError for what the user can put right, CheckpointError for a damaged model.
    """
    return run_task(Distilling(options), say)


class Distilling(Task):
    """A student that is a part of its teacher, or a model of its own with the same tokenizer."""

    def __init__(self, options: DistillOptions) -> None:
        self.options: DistillOptions = options

    @cached_property
    def teacher(self) -> GPT2:
        """The teacher, frozen."""
        return frozen(_load(self.options.teacher, 0.0))

    def sources(self) -> dict[str, str]:
        """The teacher, and the student if it is given."""
        student = {"--student": self.options.student} if self.options.student else {}
        return {"--teacher": self.options.teacher, **student}

    def given_tokenizer(self) -> Tokenizer:
        """The teacher's."""
        return model_tokenizer("--teacher", self.options.teacher)

    def train_tokenizer(self, corpus: Corpus) -> Tokenizer:
        """None is ever trained: the student's tokens are its teacher's."""
        raise OptionError(f"--teacher {self.options.teacher} has no tokenizer")

    def tokenizer_source(self) -> Path:
        """The directory of the teacher."""
        return open_checkpoint(self.options.teacher).path

    def config(self, end_of_text: int | None, tokenizer: Tokenizer | None) -> ModelConfig:
        """Of the given student, or of a part of the teacher."""
        options = self.options
        if options.student:
            return open_checkpoint(options.student).config
        teacher = open_checkpoint(options.teacher).config
        shape = (options.width, options.n_head, options.n_inner)
        return student_config(teacher, self._layers(teacher), *shape)

    def network(self, config: ModelConfig) -> GPT2:
        """The given student, or a part of the teacher."""
        options = self.options
        if options.student:
            return _load(options.student, options.dropout)
        return student_from(
            self.teacher,
            *(options.depth, options.width, options.n_head, options.n_inner),
            layers=options.layers,
            dropout=options.dropout,
        )

    def sampler(self, tokens: NDArray[np.int32], context: int) -> Sampler:
        """Windows that shift from epoch to epoch; the same in all where the teacher runs once."""
        check_context(open_checkpoint(self.options.teacher).config, context)
        if self.options.samples is not None:
            return FixedWindows.cut(tokens, context, self.options.seed)
        return WindowSampler(tokens, context, self.options.seed)

    def objective(self, network: GPT2, sampler: Sampler, accelerator: Accelerator) -> Distillation:
        """The weighted loss of the options."""
        cache = None
        if isinstance(sampler, FixedWindows):
            cache = sampled(self.options, self.teacher, sampler.windows, accelerator)
        layers = self._layers(self.teacher.config)
        if self.options.student:
            layers = evenly_spaced(self.teacher.config.n_layer, network.config.n_layer)
        return Distillation(self.options, self.teacher, network, layers, cache)

    def facts(self) -> dict[str, Any]:
        """The networks by their weights, and the layers that the student began as."""
        facts: dict[str, Any] = {"teacher": fingerprint.of_network(self.teacher)}
        if self.options.student:
            facts["student"] = fingerprint.of_network(_load(self.options.student, 0.0))
        else:
            facts["student_layers"] = list(self._layers(self.teacher.config))
        return facts

    def _layers(self, teacher: ModelConfig) -> tuple[int, ...]:
        return chosen_layers(teacher, self.options.depth, self.options.layers)


def _load(model: str, dropout: float) -> GPT2:
    with open_checkpoint(model) as checkpoint:
        network = GPT2(checkpoint.config, dropout)
        load_weights(network, checkpoint)
        return network
