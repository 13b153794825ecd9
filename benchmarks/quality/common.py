"""What the quality studies share: the text, the measure, and rows in a file.

A study is made on a model and text that neither its training nor any calibration saw. Without
``--model`` it is the bundled one, calibrated on the side of its corpus that it was trained on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.calibration.calibration import Calibration, draw
from gpt2fast.compress.quantize.activations import rounded_activations
from gpt2fast.compress.state.model import Model, open_model
from gpt2fast.errors import OptionError
from gpt2fast.evaluate import paired_comparison
from gpt2fast.train.corpus import Document, load_corpus, read_documents

RESULTS = Path(__file__).resolve().parents[1] / "results"


def parser(description: str | None, results: str) -> argparse.ArgumentParser:
    """The options that all studies have; ``results`` is the file that rows are appended to."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--model", default="demo")
    made.add_argument("--calibration", nargs="+", default=[], metavar="FILE")
    made.add_argument("--held-out", nargs="+", metavar="FILE", help="each is measured by itself")
    made.add_argument("--seeds", type=int, default=3, help="of the choice of calibration text")
    made.add_argument("--windows", type=int, default=32, help="of calibration, a context each")
    made.add_argument("--held-out-windows", type=int, default=40, help="of each file")
    made.add_argument("--out", type=Path, default=RESULTS / results)
    return made


class Study:
    """A model and its text, and the model's distributions over each token of it."""

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
        self.files, self.rows = self._whole_contexts(unseen, args.held_out_windows)
        self.groups = np.repeat(np.arange(len(self.rows)), self.length - 1)
        self.log_p = list(self._log_probabilities(self.original))  # in memory, for all models
        self.exact, _ = self.losses(self.original)

    def calibration(self, seed: int) -> Calibration:
        """Other windows for each seed."""
        end = next(iter(self.original.config.eos_token_ids), None)
        names = self.args.calibration or ["the training side of the bundled corpus"]
        return draw(self.seen, self.tokenizer, self.args.windows, self.length, seed, end, names)

    def losses(self, model: Model) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Nats of each predicted token of the held-out text, and how far the distribution over it
        is from the original's (KL divergence, nats): (N,) each. Activations are rounded before
        what is quantized."""
        nats, divergences = [], []
        found = self._log_probabilities(model)
        for tokens, log_q, log_p in zip(self.rows, found, self.log_p, strict=True):
            nats.append(-log_q.gather(-1, torch.tensor(tokens[1:, None]))[:, 0])
            divergences.append((log_p.exp() * (log_p - log_q)).sum(-1))
        return torch.cat(nats).double().numpy(), torch.cat(divergences).double().numpy()

    def nats(self, model: Model) -> NDArray[np.float64]:
        """The first of ``losses``."""
        return self.losses(model)[0]

    def row(self, model: Model, facts: dict[str, Any]) -> dict[str, Any]:
        """``facts`` with what ``model`` loses against the original, appended to the results; for
        each file of the held-out text, too, where there are several."""
        nats, divergences = self.losses(model)
        files = np.array(self.files)[self.groups]
        names = sorted(set(self.files))
        each = {name: self._loss(nats, divergences, files == name) for name in names}
        row = {
            "model": str(self.args.model),
            **facts,
            **self._loss(nats, divergences, np.ones(len(nats), np.bool_)),
            **({"texts": each} if len(names) > 1 else {}),
            "context": self.length,
            "held_out_tokens": len(nats),
            "date": datetime.date.today().isoformat(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        with self.args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def _loss(
        self,
        nats: NDArray[np.float64],
        divergences: NDArray[np.float64],
        chosen: NDArray[np.bool_],
    ) -> dict[str, float]:
        exact = self.exact[chosen]
        loss = paired_comparison(exact, nats[chosen], self.groups[chosen])
        return {
            "perplexity": float(np.exp(nats[chosen].mean())),
            "dense_perplexity": float(np.exp(exact.mean())),
            **{name: getattr(loss, name) for name in ("percent", "percent_low", "percent_high")},
            "kl": float(divergences[chosen].mean()),
        }

    @torch.no_grad()
    def _log_probabilities(self, model: Model) -> Iterator[torch.Tensor]:
        """(T - 1, V) of each window."""
        with rounded_activations(model):
            for tokens in self.rows:
                yield model.network(torch.from_numpy(tokens[None]))[0, :-1].log_softmax(-1)

    def _whole_contexts(
        self, documents: tuple[Document, ...], count: int
    ) -> tuple[list[str], NDArray[np.int64]]:
        """``count`` windows at most, spread evenly over each file's, as many of each file, and the
        name of the file of each."""
        by_file: dict[str, list[NDArray[np.int64]]] = {}
        for document in documents:
            ids = np.array(self.tokenizer.encode(document.text).ids)
            cut = ids[: len(ids) // self.length * self.length].reshape(-1, self.length)
            name = Path(document.name).name if self.args.held_out else "held out"
            by_file.setdefault(name, []).extend(cut)
        rows = [(name, pick) for name, of in by_file.items() for pick in _spread(of, count)]
        if not rows:
            raise OptionError(f"the held-out text has no window of {self.length} tokens")
        return [name for name, _ in rows], np.stack([row for _, row in rows])


def told(row: dict[str, Any]) -> str:
    """What each of several held-out texts says, for a line."""
    each = row.get("texts", {}).items()
    return "".join(f"; {name} {part['percent']:+.2f} %, KL {part['kl']:.5f}" for name, part in each)


def _spread(rows: list[NDArray[np.int64]], count: int) -> list[NDArray[np.int64]]:
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _documents(
    args: argparse.Namespace,
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """To calibrate on, and held out."""
    if args.model == "demo" and not args.calibration and not args.held_out:
        corpus = load_corpus([], "python", 0.05)  # as the bundled model was trained
        return corpus.train, corpus.held_out
    if not args.calibration or not args.held_out:
        raise OptionError("give --calibration FILES and --held-out FILE with a model")
    return read_documents(args.calibration), read_documents(args.held_out)
