"""Builds ``gpt2fast._C``: the core once, the kernels once per instruction set."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

# Contraction is off so that a multiply-add is fused where the source says so and nowhere else:
# that is what makes a row's bits independent of the batch it came in.
FLAGS = ["-std=c++17", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-ffp-contract=off",
         "-fno-math-errno", "-pthread"]  # fmt: skip
# GCC's own AVX-512 header makes its undefined values by reading a variable before setting it.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma",
          "-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # fmt: skip
X86_ISAS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": AVX512,
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
}
KERNELS = "csrc/kernels/table.cpp"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")


class BuildPerIsa(build_ext):
    """Compiles the kernel table for each instruction set beside the portable sources."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        """Compile every source in parallel, then link."""
        isas = {"generic": []} | (X86_ISAS if IS_X86 else {})
        # In editable mode setuptools' own is new each time, and with it all objects.
        temporary = f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}-{self.settings()}"
        jobs = [  # the longest first
            (KERNELS, [f"-DGPT2FAST_ISA={isa}", *flags], f"{temporary}/{isa}")
            for isa, flags in reversed(isas.items())
        ]
        jobs += [(source, [], temporary) for source in ext.sources]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            objects = list(threads.map(lambda job: self.compile_one(ext, *job), jobs))
        path = Path(self.get_ext_fullpath(ext.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            [name for names in objects for name in names],
            str(path),
            extra_postargs=[*ext.extra_link_args, "-pthread"],
            target_lang="c++",
        )

    def compile_one(self, ext: Pybind11Extension, source: str, flags: list[str], out: str) -> list:
        """Object files of one source; those of an earlier build where nothing has changed."""
        made = self.compiler.object_filenames([source], output_dir=out)
        if not self.force and not newer_group([source, *ext.depends, __file__], made[0]):
            return made
        macros = [("GPT2FAST_X86", "1")] if IS_X86 else []
        # Elsewhere first: what a killed build leaves is no object.
        new = self.compiler.compile(
            [source],
            output_dir=f"{out}/new",
            macros=macros,
            include_dirs=[*ext.include_dirs, "csrc"],
            extra_postargs=ext.extra_compile_args + FLAGS + flags,
            depends=ext.depends,
        )
        Path(made[0]).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new[0], made[0])
        return made

    def settings(self) -> str:
        """What tells objects apart that were made otherwise."""
        made_by = [*self.compiler.compiler_so, *self.compiler.include_dirs, pybind11.__version__]
        made_by += [os.environ.get(name, "") for name in ("CFLAGS", "CXXFLAGS", "CPPFLAGS")]
        return hashlib.sha256("\n".join(made_by).encode()).hexdigest()[:8]


sources = sorted(str(path) for path in Path("csrc").glob("*/*.cpp") if str(path) != KERNELS)
headers = sorted(str(path) for path in Path("csrc").glob("*/*.h"))
setup(
    ext_modules=[Pybind11Extension("gpt2fast._C", sources, depends=headers)],
    cmdclass={"build_ext": BuildPerIsa},
)
