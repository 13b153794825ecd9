"""lm-evaluation-harness on a model of transformers, and on the same one behind gpt2fast.

    pip install 'gpt2fast[hf]' lm-eval==0.4.13 accelerate
    python lm_eval_example.py gpt2 --text book.txt

The tasks are defined here, and their data are files: nothing is downloaded for them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from gpt2fast import hf

CAPITALS = {
    "Austria": "Vienna", "Chile": "Santiago", "Cuba": "Havana", "Egypt": "Cairo",
    "France": "Paris", "Greece": "Athens", "Iran": "Tehran", "Italy": "Rome",
    "Japan": "Tokyo", "Kenya": "Nairobi", "Norway": "Oslo", "Peru": "Lima",
    "Poland": "Warsaw", "Russia": "Moscow", "Spain": "Madrid", "Syria": "Damascus",
}  # fmt: skip
CLASSES = {"transformers": transformers.GPT2LMHeadModel, "gpt2fast": hf.GPT2LMHeadModel}


def questions() -> list[dict[str, Any]]:
    """The capital of each country, to choose from four."""
    names = list(CAPITALS.values())
    rows = []
    for at, (country, capital) in enumerate(CAPITALS.items()):
        choices = sorted(names[(at + 5 * step) % len(names)] for step in range(4))
        question = f"{country} is a country. The name of its capital is"
        rows.append({"question": question, "choices": choices, "answer": choices.index(capital)})
    return rows


def make_tasks(folder: Path, text: str, piece: int = 4000) -> list[dict[str, Any]]:
    """Of each kind one, as the harness' YAML files define them: choices, whole texts of ``piece``
    characters, and free answers. Their data go into ``folder``."""
    pieces = [text[start : start + piece] for start in range(0, len(text), piece)]
    files = {"capitals": questions(), "pieces": [{"text": each} for each in pieces]}
    for name, rows in files.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def task(name: str, file: str, kind: str, metrics: Sequence[str], **more: Any) -> Any:
        data = {"data_files": {"test": str(folder / f"{file}.jsonl")}, "cache_dir": str(folder)}
        source = {"dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
        scores = {"metric_list": [{"metric": each} for each in metrics]}
        return {"task": name, "output_type": kind, "num_fewshot": 0, **source, **scores, **more}

    question, answer = "{{question}}", " {{choices[answer]}}"  # a text goes on with a space
    choose = {"doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"}
    write = {"until": ["\n", "."], "max_gen_toks": 16, "do_sample": False}
    return [
        task("choices", "capitals", "multiple_choice", ["acc", "acc_norm"],
             doc_to_text=question, **choose),
        task("texts", "pieces", "loglikelihood_rolling", ["bits_per_byte"],
             doc_to_text="", doc_to_target="{{text}}"),
        task("answers", "capitals", "generate_until", ["exact_match"],
             doc_to_text=question, doc_to_target=answer, generation_kwargs=write),
    ]  # fmt: skip


def measure(model: Any, tokenizer: Any, text: str, batch_size: int = 8) -> dict[str, Any]:
    """What the harness finds for each task, and in how many seconds."""
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        manager = TaskManager(include_defaults=False)  # the harness' own tasks are not asked for
        for name, task in manager.load(make_tasks(Path(folder), text))["tasks"].items():
            start = time.perf_counter()
            found[name] = lm_eval.evaluate(wrapped, {"tasks": {name: task}}, bootstrap_iters=0)
            found[name]["seconds"] = time.perf_counter() - start
    return found


def rows_of(found: dict[str, Any]) -> dict[str, float]:
    """The scores and seconds of ``measure`` by what a row of the table is called."""
    rows = {}
    for name, each in found.items():
        for metric, value in each["results"][name].items():
            if isinstance(value, float):
                rows[f"{name} {metric.removesuffix(',none')}"] = value
        rows[f"{name} seconds"] = each["seconds"]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt2", help="a directory or a hub id")
    parser.add_argument("--tokenizer", help="where the model has none")
    parser.add_argument("--text", default=__file__, help="a file to measure bits a byte on")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args(arguments)

    text = Path(args.text).read_text(encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.tokenizer or args.model)
    columns = {}
    for name, kind in CLASSES.items():
        model = kind.from_pretrained(args.model, dtype=torch.float32).eval()
        columns[name] = rows_of(measure(model, tokenizer, text, args.batch_size))
    print(f"{'':24}" + "".join(f"{name:>14}" for name in columns))
    for row in columns["transformers"]:
        print(f"{row:24}" + "".join(f"{each[row]:14.4f}" for each in columns.values()))


if __name__ == "__main__":
    main()
