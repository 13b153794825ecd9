"""How fast compressed artifacts of GPT-2's size decode beside transformers, in one interleaved run.

    python benchmarks/quality/artifact_speed.py
    python benchmarks/quality/artifact_speed.py --quick       a tiny model, to see that it works

Random weights of 124M (speed does not depend on their values), saved by the passes of
``gpt2fast compress`` in int8, int4 and int3 and loaded as saved; transformers in float32 with SDPA
attention on as many threads. Batch 1, greedy, a prompt of 128 tokens and 128 new ones; all take
turns, medians over the rounds, ratios within them. Rows are appended to
benchmarks/results/artifact-speed.jsonl. Exits with 1 where int8 is below 8.5 times, or int4 below
11 times, the speed of transformers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from gpt2fast import _C, LLM, SamplingParams
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import Model, frozen
from gpt2fast.config import ModelConfig
from gpt2fast.host import num_cpus
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.quantization import MatrixFormat

RESULTS = Path(__file__).resolve().parents[1] / "results" / "artifact-speed.jsonl"
FULL = ModelConfig(50257, 1024, 768, 12, 12, 3072)
TINY = ModelConfig(512, 64, 64, 4, 4, 256)
FORMATS = {"int8": 8.5, "int4": 11.0, "int3": 0.0}  # and the bars
Generate = Callable[[int], None]


def write_artifacts(config: ModelConfig, root: Path) -> dict[str, Path]:
    """The float model, which transformers loads, and one artifact a format."""
    network = frozen(GPT2(config))
    paths = {"float32": root / "float32"}
    save_model(Model(network, root), paths["float32"])
    for name in FORMATS:
        model = Model(frozen(GPT2(config)), root)
        model.network.load_state_dict(network.state_dict())
        quantize(model, None, QuantizeOptions("rtn", MatrixFormat(name, 64), head_method="rtn"))
        paths[name] = root / name
        save_model(model, paths[name])
    return paths


def of_transformers(path: Path, prompt: list[int], threads: int) -> Generate:
    """``generate`` of transformers."""
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    model = GPT2LMHeadModel.from_pretrained(path, attn_implementation="sdpa").eval()
    tokens = torch.tensor([prompt])

    def generate(count: int) -> None:
        with torch.inference_mode():
            model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )

    return generate


def of_artifact(path: Path, prompt: list[int], threads: int) -> Generate:
    """The artifact on the C++ runner, without the cache of earlier prompts."""
    llm = LLM(path, num_threads=threads, prefix_caching=False)

    def generate(count: int) -> None:
        llm.generate(prompt, SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True))

    return generate


def decode_speed(generate: Generate, tokens: int) -> float:
    """Tokens a second after the first: what 1 + ``tokens`` take more than 1."""
    times = []
    for count in (1, 1 + tokens):
        begin = perf_counter()
        generate(count)
        times.append(perf_counter() - begin)
    return tokens / (times[1] - times[0])


def main(argv: list[str]) -> int:
    """Measure, print, append rows, compare with the bars."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, few tokens, no bar")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=num_cpus())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    config, tokens = (TINY, 16) if args.quick else (FULL, 128)
    prompt = list(range(1, 1 + min(128, config.n_positions // 2)))
    with tempfile.TemporaryDirectory() as root:
        paths = write_artifacts(config, Path(root))
        size = {name: (path / "model.safetensors").stat().st_size for name, path in paths.items()}
        systems = {"transformers float32": of_transformers(paths["float32"], prompt, args.threads)}
        for name in FORMATS:
            systems[name] = of_artifact(paths[name], prompt, args.threads)
        speeds: dict[str, list[float]] = {name: [] for name in systems}
        for number in range(args.rounds + 1):  # the first warms up
            for name, generate in systems.items():
                speed = decode_speed(generate, tokens)
                speeds[name] += [speed] if number else []
            print(f"round {number} of {args.rounds}", file=sys.stderr, flush=True)
    return report(speeds, size, args)


def report(speeds: dict[str, list[float]], size: dict[str, int], args: argparse.Namespace) -> int:
    """Print and keep the rows; 1 where a bar is missed."""
    theirs, missed = speeds["transformers float32"], False
    rows = []
    for name, mine in speeds.items():
        ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
        missed |= ratio < FORMATS.get(name, 0.0)
        rows.append(
            {
                "system": name,
                "tokens_per_second": round(median(mine), 1),
                "times_transformers": round(ratio, 2),
                "bar": FORMATS.get(name),
                "bytes": size.get(name, size["float32"]),
                "threads": args.threads,
                "rounds": args.rounds,
                "isa": _C.isa(),
                "torch": torch.__version__,
                "date": datetime.date.today().isoformat(),
            }
        )
        print(f"{name:22} {median(mine):8.1f} tok/s  {ratio:6.2f}x transformers")
    if args.quick:
        return 0
    with args.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
