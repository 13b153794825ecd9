"""The layout shows the architecture: imports go downward only, and the tree in the docs is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "gpt2fast"

# Lowest first. A floor imports itself and what stands before it; floors of one row are siblings
# and do not import each other.
FLOORS: list[set[str]] = [
    {"_C", "errors"},
    {"files", "host", "terminal", "flag_names", "text_files"},
    {"status_line"},
    {"config", "sampling_params"},
    {"quantization"},
    {"checkpoint", "kernels"},
    {"model"},
    {"runners"},
    {"engine"},
    {"hf", "train", "evaluate", "export"},
    {"bench"},
    {"compress"},
    {"cli"},
]
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
# The floors within a package: its folders and files, lowest first.
INNER_FLOORS: dict[str, list[set[str]]] = {
    "compress": [
        {"budget", "progress"},
        {"state", "calibration"},
        {"prune", "quantize", "distill"},
        {"recipe"},
        {"options"},
        {"search"},
        {"report"},
        {"artifact", "run"},
    ],
    "hf": [
        {"compat"},
        {"weights"},
        {"backend"},
        {"dispatch", "generation"},
        {"modeling"},
        {"pickle_paths"},
    ],
}
CSRC_FLOORS = ["core", "torch_rng", "kernels", "kv_cache", "sampling", "decoder", "bindings"]
CORE_DEPENDENCIES = {"numpy", "safetensors", "tokenizers", "huggingface_hub"}


def floor_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Path]:
    top = {"__init__", "__main__"}  # the public face, above all floors
    return [path for path in sorted(PACKAGE.rglob("*.py")) if floor_of(path) not in top]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    mine = floor_of(path)
    assert mine in HEIGHT, f"{mine} is on no floor; add it to FLOORS and to docs/architecture.md"
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        assert parts[0] not in {"tests", "benchmarks"}, f"{path} imports {name}"
        if parts[0] != "gpt2fast" or len(parts) < 2 or parts[1] not in HEIGHT:
            continue
        other = parts[1]
        assert other == mine or HEIGHT[other] < HEIGHT[mine], f"{path} imports upward: {name}"


@pytest.mark.parametrize("package", INNER_FLOORS)
def test_imports_go_downward_within_a_package(package: str) -> None:
    heights = {name: height for height, row in enumerate(INNER_FLOORS[package]) for name in row}
    for path in sorted((PACKAGE / package).rglob("*.py")):
        mine = path.relative_to(PACKAGE / package).parts[0].removesuffix(".py")
        if mine == "__init__":
            continue
        assert mine in heights, f"{mine} is on no floor of {package}; add it to INNER_FLOORS"
        for name in imports(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[:2] != ["gpt2fast", package] or len(parts) < 3 or parts[2] == mine:
                continue
            height = heights.get(parts[2])
            assert height is not None, f"{path}: {name} is on no floor of {package}"
            assert height < heights[mine], f"{path} imports upward: {name}"


@pytest.mark.parametrize("package", sorted(HEIGHT))
def test_modules_import_each_other_in_one_direction(package: str) -> None:
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in (PACKAGE / package).rglob("*.py")
    }
    graph = {name: set(imports(_loaded(path))) & set(modules) for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError with the modules of a cycle


def _loaded(path: Path) -> ast.Module:
    """What runs when ``path`` is imported, or later: all but what TYPE_CHECKING guards."""
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return tree


def top_level_imports(path: Path) -> set[str]:
    """Modules imported when `path` is, by their first name; those under TYPE_CHECKING are not."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.split(".")[0] for name in imports(node)}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_torch_rooms_import_torch_when_loaded(path: Path) -> None:
    torch_rooms = (
        "kernels/reference.py",
        "kernels/triton/",
        "runners/cuda/",
        "runners/torch.py",
        "model/",
        "train/",
        "compress/",
        "hf/",
    )
    heavy = top_level_imports(path) & {
        "torch",
        "triton",
        "transformers",
        "accelerate",
        "matplotlib",
        "jinja2",
        "tqdm",
    }
    relative = str(path.relative_to(PACKAGE))
    assert not heavy or relative.startswith(torch_rooms), heavy


@pytest.mark.parametrize(
    "path", sorted((ROOT / "csrc").rglob("*.[hc]*")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_includes_go_downward(path: Path) -> None:
    mine = CSRC_FLOORS.index(path.parent.name)
    text = path.read_text()
    for room in re.findall(r'#include "(\w+)/', text):
        assert CSRC_FLOORS.index(room) <= mine, f"{path} includes upward: {room}"
    if path.parent.name != "bindings":
        assert not re.search(r"#include <(pybind11|Python|torch)", text), path


def test_the_tree_in_the_documentation_is_the_tree_on_disk() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"```\n(csrc/\n.*?)```", text, re.DOTALL)
    assert tree, "docs/architecture.md has no tree that starts with csrc/"
    rooms: set[str] = set()
    parent = ""
    for line in tree.group(1).splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        if indent == 0:
            parent = name
            rooms.add(parent)
        elif name.endswith("/"):
            rooms.add(parent + name)
    on_disk = {"benchmarks/", "csrc/", "docs/", "gpt2fast/", "tests/"}
    for top in ("csrc", "gpt2fast"):
        folders = [p for p in (ROOT / top).iterdir() if p.is_dir() and p.name != "__pycache__"]
        on_disk |= {f"{top}/{p.name}/" for p in folders}
    assert rooms == on_disk
