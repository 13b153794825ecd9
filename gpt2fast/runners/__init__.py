"""Runners: one forward step over a paged cache, each on its kind of device."""

from gpt2fast.runners.base import Runner, StepBatch
from gpt2fast.runners.factory import BLOCK_SIZE, make_runner, tokens_in_a_block
from gpt2fast.runners.model_format import ModelFormat, reject_fixed_options, resolve_format
from gpt2fast.runners.options import FormatOptions

__all__ = [
    "BLOCK_SIZE",
    "FormatOptions",
    "ModelFormat",
    "Runner",
    "StepBatch",
    "make_runner",
    "reject_fixed_options",
    "resolve_format",
    "tokens_in_a_block",
]
