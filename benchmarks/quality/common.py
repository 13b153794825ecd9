"""What the quality studies share: the text, the measure, and rows in a file.

A study is made on a model and text that neither its training nor any calibration saw. Without
``--model`` it is the bundled one, calibrated on the side of its corpus that it was trained on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.calibration import Calibration, draw
from gpt2fast.compress.quantize.activations import rounded_activations
from gpt2fast.compress.state import Model, open_model
from gpt2fast.errors import OptionError
from gpt2fast.evaluate import paired_comparison, plain_windows, token_nats
from gpt2fast.evaluate.windows import groups_of
from gpt2fast.train.corpus import Document, load_corpus, read_documents

RESULTS = Path(__file__).resolve().parents[1] / "results"


def parser(description: str | None, results: str) -> argparse.ArgumentParser:
    """The options that all studies have; ``results`` is the file that rows are appended to."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--model", default="demo")
    made.add_argument("--calibration", nargs="+", default=[], metavar="FILE")
    made.add_argument("--held-out", metavar="FILE")
    made.add_argument("--seeds", type=int, default=3, help="of the choice of calibration text")
    made.add_argument("--windows", type=int, default=32, help="of calibration, a context each")
    made.add_argument("--held-out-windows", type=int, default=40)
    made.add_argument("--out", type=Path, default=RESULTS / results)
    return made


class Study:
    """A model and its text."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.original = open_model(args.model)
        self.length = self.original.config.n_positions
        with open_checkpoint(args.model) as checkpoint:
            tokenizer = checkpoint.load_tokenizer()
        if tokenizer is None:
            raise OptionError(f"{args.model} has no tokenizer.json; give a model with one")
        self.tokenizer = tokenizer
        self.seen, unseen = _documents(args)
        self.windows = plain_windows(self._whole_contexts(unseen, args.held_out_windows))
        self.groups = groups_of(self.windows)
        self.exact = self.nats(self.original)

    def calibration(self, seed: int) -> Calibration:
        """Other windows for each seed."""
        end = next(iter(self.original.config.eos_token_ids), None)
        names = self.args.calibration or ["the training side of the bundled corpus"]
        return draw(self.seen, self.tokenizer, self.args.windows, self.length, seed, end, names)

    def nats(self, model: Model) -> NDArray[np.float64]:
        """Of each predicted token of the held-out text, activations rounded before what is
        quantized."""

        def scorer(tokens: object) -> NDArray[np.float32]:
            return np.asarray(model.network(torch.tensor([tokens]))[0])

        with torch.no_grad(), rounded_activations(model):
            return token_nats(scorer, self.windows)

    def row(self, model: Model, facts: dict[str, Any]) -> dict[str, Any]:
        """``facts`` with what ``model`` loses against the original, appended to the results."""
        loss = paired_comparison(self.exact, self.nats(model), self.groups)
        row = {
            "model": str(self.args.model),
            **facts,
            "perplexity": float(np.exp(self.exact.mean() + loss.mean)),
            "dense_perplexity": float(np.exp(self.exact.mean())),
            **{name: getattr(loss, name) for name in ("percent", "percent_low", "percent_high")},
            "context": self.length,
            "held_out_tokens": len(self.exact),
            "date": datetime.date.today().isoformat(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        with self.args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def _whole_contexts(
        self, documents: tuple[Document, ...], count: int
    ) -> NDArray[np.integer[Any]]:
        """``count`` windows at most, spread evenly over the documents."""
        rows: list[NDArray[np.int64]] = []
        for document in documents:
            ids = np.array(self.tokenizer.encode(document.text).ids)
            rows += list(ids[: len(ids) // self.length * self.length].reshape(-1, self.length))
        if not rows:
            raise OptionError(f"the held-out text has no window of {self.length} tokens")
        count = min(count, len(rows))
        return np.stack([rows[i * len(rows) // count] for i in range(count)])


def _documents(
    args: argparse.Namespace,
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """To calibrate on, and held out."""
    if args.model == "demo" and not args.calibration and not args.held_out:
        corpus = load_corpus([], "python", 0.05)  # as the bundled model was trained
        return corpus.train, corpus.held_out
    if not args.calibration or not args.held_out:
        raise OptionError("give --calibration FILES and --held-out FILE with a model")
    return read_documents(args.calibration), read_documents([args.held_out])
