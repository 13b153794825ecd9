"""What each way of quantizing costs on text that neither training nor calibration saw.

    python benchmarks/quality/quantize.py
    python benchmarks/quality/quantize.py --model DIR --calibration FILES... --held-out FILE

Perplexity in contexts of the model's own length, activations rounded as the C++ runner rounds them,
beside that of the float model: percent more, with a paired 95 % interval over windows. Without a
model it is the bundled one, calibrated on what it was trained on. Rows are appended to
benchmarks/results/quality-quantize.jsonl. Exits with 1 where a promise is broken: GPTQ < the better
of AWQ and clipping < rounding to nearest at 4 and 3 bits (medians over the seeds), GPTQ at most 0.6
of the loss of rounding to nearest at 3 bits, int8 everywhere with GPTQ at most 0.1 %, and int4 with
GPTQ at most 2 % under an int8 head. The head is rounded by the method of the blocks (by clipping
under AWQ).
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from time import perf_counter
from typing import Any

from common import Study, parser, told

from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.state.model import open_model
from gpt2fast.errors import GPT2FastError
from gpt2fast.quantization import MatrixFormat

METHODS = ("rtn", "clip", "awq", "gptq")


def cases(args: argparse.Namespace) -> list[tuple[str, MatrixFormat, int]]:
    """(method, format of the blocks, seed) of each row; what no text decides has one seed."""
    found = []
    for bits in args.bits:
        form = MatrixFormat(f"int{bits}", args.group)
        for method in args.methods:
            if bits == 8 and method == "awq":
                continue
            seeds = 1 if method == "rtn" else args.seeds
            found += [(method, form, seed) for seed in range(seeds)]
    return found


def measure(study: Study, method: str, form: MatrixFormat, seed: int) -> dict[str, Any]:
    """One row."""
    text = study.calibration(seed)
    model, begin = open_model(study.args.model), perf_counter()
    head = MatrixFormat("int8", form.group_size)
    quantize(model, text, QuantizeOptions(method, form, head))
    facts = {
        "method": method,
        "blocks": form.label,
        "head": head.label,
        "seed": seed,
        "calibration_tokens": text.num_tokens,
        "seconds": round(perf_counter() - begin, 1),
    }
    row = study.row(model, facts)
    print(
        f"{form.label} {method:4} seed {seed}: {row['percent']:+.3f} % "
        f"[{row['percent_low']:+.3f}, {row['percent_high']:+.3f}], KL {row['kl']:.5f}"
        f"{told(row)}  {row['seconds']:.0f} s",
        flush=True,
    )
    return row


def check(rows: list[dict[str, Any]]) -> list[str]:
    """What was promised and is not kept."""
    losses: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (str(row["blocks"]).split("-")[0], str(row["method"]))
        same = [r for r in rows if (r["blocks"], r["method"]) == (row["blocks"], row["method"])]
        losses[key] = median(float(str(r["percent"])) for r in same)
    failed = []

    def promise(holds: bool, text: str) -> None:
        print("kept  " if holds else "BROKEN", text)
        if not holds:
            failed.append(text)

    for bits in ("int4", "int3"):
        if all((bits, method) in losses for method in METHODS):
            rtn, clip, awq, gptq = (losses[bits, method] for method in METHODS)
            promise(gptq < min(clip, awq) < rtn, f"{bits}: GPTQ < AWQ or clipping < to nearest")
            if bits == "int3":
                promise(gptq <= 0.6 * rtn, f"{bits}: GPTQ {gptq:.3f} % of {rtn:.3f} %")
    for key, most in {("int8", "gptq"): 0.1, ("int4", "gptq"): 2.0}.items():
        if key in losses:
            promise(losses[key] <= most, f"{' '.join(key)}: {losses[key]:.3f} % <= {most} %")
    return failed


def main(argv: list[str]) -> int:
    """Measure, append the rows, and say what is kept."""
    options = parser(__doc__, "quality-quantize.jsonl")
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3], choices=[8, 4, 3])
    options.add_argument("--group", type=int, default=64, choices=[32, 64, 128])
    args = options.parse_args(argv)
    study = Study(args)
    rows = [measure(study, *case) for case in cases(args)]
    return 1 if check(rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except GPT2FastError as error:
        sys.exit(f"error: {error}")
