"""The loops that limits are measured with are what their figures count: no multiply-add and no load
left out by the compiler, each sum in a register of its own."""

from __future__ import annotations

import platform
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gpt2fast import _C

ROOT = Path(__file__).resolve().parents[2]
ISAS = ("generic", "avx2", "avx512", "avx512_vnni")

pytestmark = [
    pytest.mark.skipif(
        platform.machine().lower() not in ("x86_64", "amd64"), reason="knows x86's instructions"
    ),
    pytest.mark.skipif(
        not (shutil.which("objdump") and shutil.which("nm")), reason="needs objdump and nm"
    ),
]

INT8, INT4 = r"::peak_int<.*2>\(", r"::peak_int<.*3>\("
# What a round of each function is made of (a round of 4-bit sums is a span of 16, with their
# widening), and the instruction that has the sums in its last operand, with their number.
_AVX2_INT8 = ({"vpsignb": 8, "vpmaddubsw": 8, "vpmaddwd": 8, "vpaddd": 8}, ("vpaddd", 8))
_AVX2_INT4 = ({"vpmaddubsw": 128, "vpaddw": 128, "vpmaddwd": 8}, ("vpaddw", 8))
_PORTABLE_INT = ({"pmullw": 16, "paddd": 32}, None)
ROUNDS: dict[tuple[str, str], tuple[dict[str, int], tuple[str, int] | None]] = {
    ("generic", "::peak_float"): ({"mulps": 12, "addps": 12}, ("addps", 12)),
    ("generic", INT8): _PORTABLE_INT,
    ("generic", INT4): _PORTABLE_INT,
    ("avx2", "::peak_float"): ({"vfmadd231ps ymm": 12}, ("vfmadd231ps", 12)),
    ("avx2", INT8): _AVX2_INT8,
    ("avx2", INT4): _AVX2_INT4,
    ("avx512", "::peak_float"): ({"vfmadd231ps zmm": 16}, ("vfmadd231ps", 16)),
    ("avx512", INT8): _AVX2_INT8,
    ("avx512", INT4): _AVX2_INT4,
    ("avx512_vnni", "::peak_float"): ({"vfmadd231ps zmm": 16}, ("vfmadd231ps", 16)),
    ("avx512_vnni", INT8): ({"vpdpbusd zmm": 16}, ("vpdpbusd", 16)),
    ("avx512_vnni", INT4): ({"vpdpbusd zmm": 16}, ("vpdpbusd", 16)),
}

# Everything that computes with vectors: what is not in a round may not be in a loop.
COMPUTES = re.compile(r"v?(p?(mul|madd|add|dp|sign)|fn?m(add|sub))\w+")


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: str

    @property
    def last(self) -> str:
        return self.operands.rsplit(",", 1)[-1]


class Code:
    """The functions of an object file or a library, by parts of their names."""

    def __init__(self, file: Path) -> None:
        self._symbols = _output("nm", "-C", str(file)).splitlines()
        self._lines = _output("objdump", "-d", "--no-show-raw-insn", str(file)).splitlines()
        self._starts = {
            int(line.split()[0], 16): number
            for number, line in enumerate(self._lines)
            if line.endswith(">:")
        }

    def function(self, isa: str, name: str) -> list[Instruction]:
        pattern = re.compile(rf"^([0-9a-f]+) [tT] .*gpt2fast::{isa}{name}")
        found = [match for line in self._symbols if (match := pattern.match(line))]
        if not self._symbols:
            pytest.skip("the library has no symbols: it was stripped")
        assert found, f"no function {name} of {isa}"
        return list(self._instructions(self._starts[int(found[0][1], 16)]))

    def _instructions(self, start: int) -> Iterator[Instruction]:
        for line in self._lines[start + 1 :]:
            if not line.strip():
                return
            address, _, text = line.partition(":")
            name, _, operands = text.strip().partition(" ")
            yield Instruction(int(address, 16), name, operands.split("#")[0].strip())


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def loop_of(code: list[Instruction], counts: Callable[[Instruction], bool]) -> list[Instruction]:
    """The innermost loop with the most instructions that count: from where a conditional jump goes
    back to up to the jump."""
    bodies = []
    for at, instruction in enumerate(code):
        target = re.match(r"([0-9a-f]+) <", instruction.operands)
        if instruction.name.startswith("j") and instruction.name != "jmp" and target:
            bodies.append([i for i in code[: at + 1] if i.address >= int(target[1], 16)])
    assert any(map(counts, (i for body in bodies for i in body))), "no loop"
    return max(bodies, key=lambda body: (sum(map(counts, body)), -len(body)))


def computes(instruction: Instruction) -> bool:
    return COMPUTES.fullmatch(instruction.name) is not None


def reads(instruction: Instruction) -> bool:
    source = instruction.operands.removesuffix(instruction.last)
    return instruction.name != "lea" and bool(re.search(r"\(%r(?!sp|bp)", source))


@cache
def setup_script() -> dict[str, Any]:
    with mock.patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


@pytest.fixture(scope="module", params=["the library", "clang++"])
def code_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The code for an instruction set: as it was built, and as another compiler makes it."""
    if request.param == "the library":
        code = Code(Path(_C.__file__))
        return lambda isa: code
    compiler = shutil.which(request.param)
    if compiler is None:
        pytest.skip(f"needs {request.param}")
    folder = tmp_path_factory.mktemp("code")
    source = folder / "loops.cpp"
    source.write_text(
        '#include "kernels/peak.h"\n#include "kernels/stream.h"\n'
        "namespace gpt2fast::GPT2FAST_ISA {\n"
        "extern decltype(&peak) const kPeak;\ndecltype(&peak) const kPeak = peak;\n"
        "extern decltype(&stream) const kStream;\ndecltype(&stream) const kStream = stream;\n}\n"
    )
    flags = setup_script()["FLAGS"]

    @cache
    def compiled(isa: str) -> Code:
        own = setup_script()["X86_ISAS"].get(isa, [])
        made = folder / f"{isa}.o"
        _output(
            compiler, *flags, *own, "-w", f"-DGPT2FAST_ISA={isa}", f"-I{ROOT / 'csrc'}",
            "-c", str(source), "-o", str(made),
        )  # fmt: skip
        return Code(made)

    return compiled


@pytest.mark.parametrize(("isa", "name"), ROUNDS)
def test_the_peak_is_all_there(code_of: Any, isa: str, name: str) -> None:
    expected, sums = ROUNDS[isa, name]
    loop = loop_of(code_of(isa).function(isa, name), computes)
    for wanted, count in expected.items():
        instruction, _, register = wanted.partition(" ")
        of_name = [i for i in loop if i.name == instruction and f"%{register}" in i.last]
        assert of_name, f"no {wanted} in the loop"
        # Several rounds in one go are as good, as long as they are whole ones.
        assert len(of_name) % count == 0
        assert len(of_name) // count in (1, 2, 4, 8, 16)
    assert {i.name for i in loop if computes(i)} == {wanted.split()[0] for wanted in expected}
    if sums is not None:
        instruction, count = sums  # one that moves to another register on the way counts twice
        assert len({i.last for i in loop if i.name == instruction}) >= count
    # Nothing lives in memory.
    assert not [i for i in loop if "(%rsp)" in i.operands or "(%rbp)" in i.operands]


@pytest.mark.parametrize("isa", ISAS)
def test_the_stream_is_read_whole(code_of: Any, isa: str) -> None:
    loop = loop_of(code_of(isa).function(isa, r"::stream\("), reads)
    sizes = {"x": 16, "y": 32, "z": 64}
    read = [sizes[i.last.strip("% ")[0]] for i in loop if reads(i)]
    rounds, rest = divmod(sum(read), 4 * 64)  # four streams of sixteen floats
    assert rest == 0
    assert rounds in (1, 2, 4)
