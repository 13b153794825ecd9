"""transformers' own calls on transformers, on ``gpt2fast.hf`` and on ``gpt2fast.LLM``, in turns, on
random weights.

    make bench-hf  # on three releases of transformers, or on the one that is installed:
    python benchmarks/hf.py --rounds 3 --out benchmarks/results

Greedy tokens of float32 are compared before anything is timed. Medians over the rounds; a ratio is
the median of the ratios within a round: to transformers, and to ``LLM`` in the same format.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
import transformers

from gpt2fast import LLM, SamplingParams, hf
from gpt2fast.bench.sizes import random_checkpoint
from gpt2fast.host import default_num_threads, processor_name

Call = Callable[[Any], Any]
_NEW = 128


class Unchanged(transformers.LogitsProcessor):  # type: ignore[misc]
    """A processor of the user's own, which transformers' loop has to call."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores


def calls(ids: Any) -> dict[str, Call]:
    """What is done with a language model."""
    options = {"max_new_tokens": _NEW, "min_new_tokens": _NEW, "pad_token_id": 0}
    options |= {"attention_mask": torch.ones_like(ids), "do_sample": False}
    own = transformers.LogitsProcessorList([Unchanged()])
    draws = {**options, "do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.95}
    return {
        "generate": lambda model: model.generate(ids, **options),
        "generate, sampling": lambda model: model.generate(ids, **draws),
        "generate, own logits processor": lambda model: model.generate(
            ids, logits_processor=own, **options
        ),
        "generate, beam 4": lambda model: model.generate(ids, num_beams=4, **options),
    }


def llm_calls(ids: Any) -> dict[str, Call]:
    """The same with an ``LLM``, where it has the same."""
    prompt = ids[0].tolist()
    plain = {"max_tokens": _NEW, "ignore_eos": True, "seed": 1}
    draws = {**plain, "temperature": 0.8, "top_k": 50, "top_p": 0.95}
    return {
        "generate": lambda llm: llm.generate([prompt], SamplingParams(temperature=0, **plain)),
        "generate, sampling": lambda llm: llm.generate([prompt], SamplingParams(**draws)),
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


def make_llms(path: Path, threads: int) -> dict[str, Any]:
    """An ``LLM`` in each format, which may not keep the prompt from one round for the next."""
    return {
        f"gpt2fast.LLM {scheme or 'float32'}": LLM(
            path, quantization=scheme, num_threads=threads, prefix_caching=False
        )
        for scheme in (None, "int8", "int4")
    }


def measure(systems: dict[str, Any], calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of each system's call, in turns, each round begun by another one; the first round is
    not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for number in range(rounds + 1):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            begin = perf_counter()
            calls[name](systems[name])
            if number:
                seconds[name].append(perf_counter() - begin)
    return seconds


def rows(what: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """What is reported of one call."""
    found = []
    for name, values in seconds.items():
        row: dict[str, Any] = {"call": what, "system": name, "seconds": median(values)}
        row["ratio"] = _ratio(seconds["transformers"], values)
        llm = name.replace(".hf", ".LLM")
        beside = ""
        if llm in seconds and llm != name:
            row["of_llm"] = 1 / _ratio(seconds[llm], values)
            beside = f", {row['of_llm']:.3f} of LLM's time"
        found.append(row)
        print(
            f"{what:31s} {name:20s} {median(values):7.3f} s {row['ratio']:6.2f}x{beside}",
            flush=True,
        )
    return found


def _ratio(base: list[float], values: list[float]) -> float:
    return median(b / v for b, v in zip(base, values, strict=True))


def language_models(path: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the calls of a language model."""
    models = make_models(path, threads)
    vocabulary = models["transformers"].config.vocab_size
    ids = torch.randint(0, vocabulary, (1, 128), generator=torch.manual_seed(0))
    todo, beside = calls(ids), llm_calls(ids)
    for what, call in todo.items():
        found = []
        for name in ("gpt2fast.hf float32", "transformers"):
            torch.manual_seed(1)
            found.append(call(models[name]))
        if not torch.equal(*found):
            raise SystemExit(f"{what}: the tokens differ")
    llms, results = make_llms(path, threads), []
    for what, call in todo.items():
        systems = {**models, **(llms if what in beside else {})}
        ways = {name: beside[what] if name in llms else call for name in systems}
        results += rows(what, measure(systems, ways, rounds))
    return results


def beside_llm(path: Path, threads: int, rounds: int) -> None:
    """Greedy ``generate`` and ``LLM.generate`` alone, one after the other: the ratio of their times
    with its quartiles, for each format of integers."""
    for scheme in ("int8", "int4"):
        model = transformers.GPT2LMHeadModel.from_pretrained(path).eval()
        ids = torch.randint(0, model.config.vocab_size, (1, 128), generator=torch.manual_seed(0))
        systems = {
            "hf": hf.accelerate(model, scheme, num_threads=threads),
            "llm": LLM(path, quantization=scheme, num_threads=threads, prefix_caching=False),
        }
        ways = {"hf": calls(ids)["generate"], "llm": llm_calls(ids)["generate"]}
        seconds = measure(systems, ways, rounds)
        ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        print(f"{scheme}: {middle:.3f} of LLM's time [{low:.3f}, {high:.3f}]", flush=True)


def classifiers(path: Path, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the calls of a classifier."""
    models = make_classifiers(path, threads)
    call = classify(models["transformers"].config.vocab_size)
    first, second = (call(model) for model in models.values())
    if float((first - second).abs().max()) > 1e-3:
        raise SystemExit(f"classes differ by {float((first - second).abs().max())}")
    return rows("classify 32 sentences", measure(models, dict.fromkeys(models, call), rounds))


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="gpt2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside-llm", action="store_true", help="that comparison alone")
    parser.add_argument("--work", type=Path, help="keeps the random checkpoint")
    parser.add_argument("--out", type=Path, help="folder of the rows: hf-<release>.json")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    threads = default_num_threads()
    torch.set_num_threads(threads)
    work = args.work or Path(tempfile.gettempdir())
    path = random_checkpoint(args.size, work)
    if args.beside_llm:
        beside_llm(path, threads, args.rounds)
        return
    results = language_models(path, threads, args.rounds)
    results += classifiers(path, threads, args.rounds)
    if args.out:
        record = {
            "command": "make bench-hf", "cpu": processor_name(), "size": args.size,
            "threads": threads, "rounds": args.rounds, "date": datetime.date.today().isoformat(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "rows": results,
        }  # fmt: skip
        file = args.out / f"hf-{transformers.__version__}.json"
        file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
