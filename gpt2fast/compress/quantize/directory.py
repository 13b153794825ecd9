"""From a checkpoint to a quantized directory whose integers were calibrated on text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.compress.calibration.calibration import (
    Calibration,
    generate_calibration,
    read_calibration,
)
from gpt2fast.compress.quantize.options import QuantizeOptions
from gpt2fast.compress.quantize.run import quantize
from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import open_model
from gpt2fast.errors import CheckpointError
from gpt2fast.quantization import Quantization

_WINDOWS, _LENGTH = 128, 256  # of text, tokens of each
Progress = Callable[[str, int, int], None]  # what goes on, steps done, steps there are


@dataclass(frozen=True)
class DirectoryOptions:
    """How a directory is quantized: ``method`` is "clip", "awq" or "gptq"; without files of
    ``text`` the model writes its own, from ``seed``."""

    scheme: Quantization
    method: str
    text: Sequence[str] = ()
    seed: int = 0
    num_threads: int | None = None


def quantize_directory(
    source: Path, out: Path, options: DirectoryOptions, progress: Progress
) -> Calibration:
    """Quantize the float checkpoint in ``source`` to the new directory ``out``; returns the text.

    Raises OptionError for a format or text that cannot be, CheckpointError where ``source`` has no
    tokenizer to read text with.
    """
    asked = QuantizeOptions(options.method, options.scheme.blocks, options.scheme.head)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    calibration = _calibration(source, options, progress)
    model = open_model(source)
    quantize(model, calibration, asked, lambda name, *steps: progress(f"rounding {name}", *steps))
    progress(f"writing {out}", 1, 1)
    save_model(model, out)
    return calibration


def _calibration(source: Path, options: DirectoryOptions, progress: Progress) -> Calibration:
    with open_checkpoint(source) as checkpoint:
        config, tokenizer = checkpoint.config, checkpoint.load_tokenizer()
    length = min(_LENGTH, config.n_positions)
    if not options.text:
        return generate_calibration(
            source,
            _WINDOWS,
            length,
            options.seed,
            num_threads=options.num_threads,
            progress=lambda *steps: progress("the model writes text to calibrate on", *steps),
        )
    if tokenizer is None:
        raise CheckpointError(f"{source} has no tokenizer to read text with; put its files there")
    end = next(iter(config.eos_token_ids), None)
    return read_calibration(options.text, tokenizer, _WINDOWS, length, options.seed, end)
