"""The specializations of the kernels that ship: launching one, and what the compiler makes of it,
GPU or not."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import driver

from gpt2fast.kernels.triton.dependent import CAPABILITY, capability_of

# Names of element types in kernel signatures.
ELEMENTS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

# Bytes of shared memory that one program may take, by compute capability.
SHARED_LIMITS = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}


@dataclass(frozen=True)
class Variant:
    """One specialization of a kernel.

    Attributes:
        name: for messages.
        kernel: the function under ``triton.jit``.
        types: of the arguments that are no constants, by name: "*fp16", "i32", "fp32".
        constants: the ``tl.constexpr`` arguments, but for DEPENDENT, which depends on the device.
        num_warps, num_stages: of the launch.
        most_registers: of a thread, by compute capability; without one the compiler decides. It
            aims at a number that lets more programs run side by side, and may spill to reach it.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int = 1
    most_registers: Mapping[int, int] = field(default_factory=dict)
    _compiled: dict[tuple[Any, ...], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def least_capability(self) -> int:
        """The compute capability from which on a GPU has the types: 8-bit floats came with 8.9."""
        return 89 if "*fp8e4nv" in self.types.values() else 0

    def constants_for(self, capability: int) -> dict[str, Any]:
        """All ``tl.constexpr`` arguments on a GPU of this compute capability."""
        return {**self.constants, "DEPENDENT": capability >= CAPABILITY}

    def options_for(self, capability: int) -> dict[str, Any]:
        """What Triton compiles and launches with on a GPU of this compute capability."""
        options = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        if capability >= CAPABILITY:
            options["launch_pdl"] = True
        if capability in self.most_registers:
            options["maxnreg"] = self.most_registers[capability]
        return options

    def launch(self, grid: tuple[int, ...], device: torch.device, *arguments: Any) -> None:
        """Run on the current stream of ``device``; a grid without programs does nothing."""
        if 0 in grid:
            return
        if device.type != "cuda" or knobs.runtime.launch_enter_hook is not None:
            self._bind(grid, device, arguments)
            return
        # What Triton tells its compilations apart by, where integers are not specialized on.
        key = (device.index, *(a.data_ptr() & 15 for a in arguments if isinstance(a, Tensor)))
        kernel = self._compiled.get(key)
        if kernel is None:
            self._compiled[key] = self._bind(grid, device, arguments)
            return
        # Past Triton's own binding of arguments, which takes longer than everything else a launch
        # is made of: a prompt's step is not recorded as a graph.
        x, y, z = (*grid, 1, 1)[:3]
        stream = driver.active.get_current_stream(device.index)
        kernel.run(
            x, y, z, stream, kernel.function, kernel.packed_metadata, None, None, None,
            *arguments, *self._values,
        )  # fmt: skip

    def _bind(self, grid: tuple[int, ...], device: torch.device, arguments: Sequence[Any]) -> Any:
        """Launch by way of Triton, which compiles what it has not; the compiled kernel."""
        capability = capability_of(device)
        return self.kernel[grid](
            *arguments, **self.constants_for(capability), **self.options_for(capability)
        )

    @cached_property
    def _values(self) -> tuple[Any, ...]:
        """The constants in the kernel's order, which the launcher counts and passes over."""
        return tuple(self.constants.get(name) for name in self.kernel.arg_names[len(self.types) :])


def element(dtype: torch.dtype) -> str:
    """The name of a dtype in kernel signatures."""
    return ELEMENTS[str(dtype).removeprefix("torch.")]


@dataclass(frozen=True)
class Resources:
    """What one program of a compiled kernel takes."""

    registers: int  # a thread
    local_bytes: int  # a thread's spills and stack, in device memory
    shared_bytes: int


def compile_for(variant: Variant, capability: int) -> Resources:
    """Compile ahead of time for a compute capability such as 90, without a GPU.

    Pointers are taken to be multiples of 16 bytes, as torch allocates them.
    """
    constants = variant.constants_for(capability)
    names = [name for name in variant.kernel.arg_names if name not in constants]
    if names != list(variant.types) or names != variant.kernel.arg_names[: len(names)]:
        raise ValueError(f"{variant.name}: the kernel takes {names}, not {list(variant.types)}")
    signature = {name: variant.types.get(name, "constexpr") for name in variant.kernel.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    compiled = triton.compile(
        ASTSource(variant.kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options=variant.options_for(capability) | {"enable_fp_fusion": True},
    )
    registers, local = _usage(compiled.asm["cubin"])
    return Resources(registers, local, compiled.metadata.shared)


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and local bytes of the only kernel of ``cubin``."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        report = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", report)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resources: {report!r}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local
