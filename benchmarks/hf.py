"""transformers' own calls on transformers and on ``gpt2fast.hf``, in turns, on random weights.

    python benchmarks/hf.py --out benchmarks/results/hf.json

Greedy tokens of float32 are compared before anything is timed. Medians over the rounds; a ratio is
the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import transformers

from gpt2fast import hf
from gpt2fast.bench.sizes import random_checkpoint
from gpt2fast.runners.cpu import default_num_threads

Call = Callable[[Any], Any]
_NEW = 128


class Unchanged(transformers.LogitsProcessor):  # type: ignore[misc]
    """A processor of the user's own, which transformers' loop has to call."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores


def calls(vocabulary: int) -> dict[str, Call]:
    """What is done with a language model."""
    ids = torch.randint(0, vocabulary, (1, 128), generator=torch.manual_seed(0))
    options = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "do_sample": False}
    options |= {"pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    own = transformers.LogitsProcessorList([Unchanged()])
    return {
        "generate": lambda model: model.generate(ids, **options),
        "generate, own logits processor": lambda model: model.generate(
            ids, logits_processor=own, **options
        ),
        "generate, beam 4": lambda model: model.generate(ids, num_beams=4, **options),
    }


def classify(vocabulary: int) -> Call:
    """32 sentences of 8 to 132 tokens, padded on the right."""
    generator = torch.manual_seed(1)
    lengths = torch.arange(8, 136, 4)
    ids = torch.randint(1, vocabulary, (32, 132), generator=generator)
    mask = (torch.arange(132) < lengths[:, None]).long()
    ids[mask == 0] = 0

    @torch.inference_mode()
    def call(model: Any) -> Any:
        return model(ids, attention_mask=mask).logits

    return call


def make_models(path: Path, threads: int) -> dict[str, Any]:
    """A language model as it is, and accelerated in each format."""
    model = transformers.GPT2LMHeadModel.from_pretrained(path).eval()
    models = {"transformers": model}
    for scheme in (None, "int8", "int4"):
        name = f"gpt2fast.hf {scheme or 'float32'}"
        models[name] = hf.accelerate(copy.deepcopy(model), scheme, num_threads=threads)
    return models


def make_classifiers(path: Path, threads: int) -> dict[str, Any]:
    """A classifier as it is, and accelerated."""
    model = transformers.GPT2ForSequenceClassification.from_pretrained(path, num_labels=4).eval()
    model.config.pad_token_id = 0
    ours = hf.accelerate(copy.deepcopy(model), num_threads=threads)
    return {"transformers": model, "gpt2fast.hf float32": ours}


def measure(models: dict[str, Any], call: Call, rounds: int) -> dict[str, list[float]]:
    """Seconds of each model, in turns; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            begin = perf_counter()
            call(model)
            if number:
                seconds[name].append(perf_counter() - begin)
    return seconds


def rows(what: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """What is reported of one call."""
    base = seconds["transformers"]
    found = []
    for name, values in seconds.items():
        ratio = median(b / v for b, v in zip(base, values, strict=True))
        found.append({"call": what, "system": name, "seconds": median(values), "ratio": ratio})
        print(f"{what:32s} {name:22s} {median(values):7.3f} s {ratio:6.2f}x", flush=True)
    return found


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="keeps the random checkpoint")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    threads = default_num_threads()
    torch.set_num_threads(threads)
    work = args.work or Path(tempfile.gettempdir())
    path = random_checkpoint(args.size, work)
    models = make_models(path, threads)
    vocabulary = models["transformers"].config.vocab_size
    todo = calls(vocabulary)
    for what, call in todo.items():
        found, want = (call(models[name]) for name in ("gpt2fast.hf float32", "transformers"))
        if not torch.equal(found, want):
            raise SystemExit(f"{what}: the tokens differ")
    results = []
    for what, call in todo.items():
        results += rows(what, measure(models, call, args.rounds))
    classifiers = make_classifiers(path, threads)
    sentences = classify(vocabulary)
    difference = sentences(classifiers["gpt2fast.hf float32"]) - sentences(
        classifiers["transformers"]
    )
    if float(difference.abs().max()) > 1e-3:
        raise SystemExit(f"classes differ by {float(difference.abs().max())}")
    results += rows("classify 32 sentences", measure(classifiers, sentences, args.rounds))
    if args.out:
        record = {
            "command": "python benchmarks/hf.py", "size": args.size, "threads": threads,
            "rounds": args.rounds, "date": datetime.date.today().isoformat(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "rows": results,
        }  # fmt: skip
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
