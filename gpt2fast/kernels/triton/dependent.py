"""Dependent launch (CUDA's programmatic dependent launch, compute capability 9.0 and later): a
kernel starts while the one before it still runs, and waits only where it needs its results.

The rules that make it safe: every program waits before it reads what a kernel wrote and before it
stores anything; before that it reads weights alone. The wait is for the kernel before to have
ended, which has itself waited for the one before it.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

CAPABILITY = 90  # from which on kernels are launched so


@triton.jit
def launch_dependents(DEPENDENT: tl.constexpr):
    """The next kernel may be started as soon as all programs of this one are."""
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def wait(DEPENDENT: tl.constexpr):
    """What kernels before this one wrote may be read from here on."""
    if DEPENDENT:
        gdc_wait()


@cache
def capability_of(device: torch.device) -> int:
    """The compute capability of a GPU, such as 90; 0 of another device."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
