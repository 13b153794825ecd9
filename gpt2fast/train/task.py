"""One kind of run: where its network and its tokenizer come from, and what it minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gpt2fast.config import ModelConfig
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.train.corpus import Corpus
from gpt2fast.train.data import Sampler, WindowSampler
from gpt2fast.train.objective import Objective
from gpt2fast.train.run_options import TextOptions

if TYPE_CHECKING:
    from accelerate import Accelerator


class Task(ABC):
    """What ``run_task`` runs. Built on every process; ``objective`` alone may take
    long or write a file."""

    options: TextOptions

    @abstractmethod
    def sources(self) -> dict[str, str]:
        """Flag -> model that the run starts from and must not overwrite."""

    @abstractmethod
    def config(self, end_of_text: int | None, tokenizer: Tokenizer | None) -> ModelConfig:
        """The shape; ``tokenizer`` is None where one is still to be trained."""

    @abstractmethod
    def given_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that the run is given; None where it trains one."""

    @abstractmethod
    def train_tokenizer(self, corpus: Corpus) -> Tokenizer:
        """A tokenizer for ``corpus``, for a run that is given none."""

    @abstractmethod
    def tokenizer_source(self) -> Path | None:
        """The directory whose tokenizer files go with the model; None for a trained tokenizer."""

    @abstractmethod
    def network(self, config: ModelConfig) -> GPT2:
        """The network before its first step. The random state is that of the run's seed."""

    def objective(self, network: GPT2, sampler: Sampler, accelerator: Accelerator) -> Objective:
        """What ``network`` is to minimise on the windows of ``sampler``."""
        return Objective()

    def sampler(self, tokens: NDArray[np.int32], context: int) -> Sampler:
        """Which windows of ``tokens`` (N,) a step sees."""
        return WindowSampler(tokens, context, self.options.seed)

    def facts(self) -> dict[str, Any]:
        """What must still be so when the run is resumed, and goes on record, as JSON."""
        return {}
