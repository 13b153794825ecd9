"""Recipes: read strictly, and named by what is in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpt2fast.compress.recipe.recipe import Recipe, parse_recipe, read_recipe
from gpt2fast.errors import OptionError
from gpt2fast.quantization import MatrixFormat

INT4 = MatrixFormat("int4", 64)


@dataclass(frozen=True)
class Shrink:
    keep: float = 0.5
    layers: tuple[int, ...] = ()
    method: str = "best"
    limit: int | None = None
    exact: bool = True
    pairs: tuple[tuple[str, int], ...] = ()
    form: MatrixFormat = INT4

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise OptionError(f"keep = {self.keep} must be above 0 and at most 1")


PASSES = {"shrink": Shrink}


def test_options_are_typed_and_the_rest_are_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "passes:\n  - shrink\n"
        "  - shrink: {keep: 1, layers: [0, 2], limit: null, pairs: [[a, 1], [b, 2]]}\n"
    )
    recipe = read_recipe(file, PASSES)
    assert recipe.steps[0].options == Shrink()
    assert recipe.steps[1].options == Shrink(1.0, (0, 2), pairs=(("a", 1), ("b", 2)))
    assert "keep=1.0" in recipe.label


@pytest.mark.parametrize(
    ("number", "value"), [("1e-4", 1e-4), ("5E-1", 0.5), ("1.0e-3", 1e-3), (".5", 0.5), ("1", 1.0)]
)
def test_numbers_are_what_they_look_like(tmp_path: Path, number: str, value: float) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"passes: [{{shrink: {{keep: {number}}}}}]")
    assert read_recipe(file, PASSES).steps[0].options.keep == value


@pytest.mark.parametrize(
    ("label", "form"),
    [
        ("int3", MatrixFormat("int3", 64)),
        ("int8-g128", MatrixFormat("int8", 128)),
        ("float32", MatrixFormat("float32")),
    ],
)
def test_formats_are_named(label: str, form: MatrixFormat) -> None:
    recipe = parse_recipe({"passes": [{"shrink": {"form": label}}]}, "x", PASSES)
    assert recipe.steps[0].options.form == form
    assert form.label in recipe.label


def test_json_and_back_is_the_same_recipe() -> None:
    given = {"layers": [1], "limit": 3, "form": "int8"}
    recipe = parse_recipe({"passes": [{"shrink": given}]}, "x", PASSES)
    assert json.loads(json.dumps(recipe.to_json())) == recipe.to_json()
    again = parse_recipe(recipe.to_json(), "x", PASSES)
    assert again == recipe
    assert again.key == recipe.key
    assert recipe.prefix_key(0) == Recipe(()).key != recipe.key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("passes: [", "not valid YAML"),
        ("- shrink", "one list under 'passes'"),
        ("passes: []", "at least one pass"),
        ("passes: [grow]", "no pass 'grow'; there are shrink"),
        ("passes: [{shrink: 3}]", "must be a mapping"),
        ("passes: [{shrink: {}, grow: {}}]", "a pass is"),
        ("passes: [{shrink: {size: 3}}]", "no option 'size'; it has keep"),
        ("passes: [{shrink: {keep: yes}}]", "keep = True must be a finite number"),
        ("passes: [{shrink: {keep: .inf}}]", "keep = inf must be a finite number"),
        ("passes: [{shrink: {keep: 1e999}}]", "keep = inf must be a finite number"),
        ("passes: [{shrink: {exact: 1}}]", "exact = 1 must be true or false"),
        ("passes: [{shrink: {limit: 1.5}}]", "limit = 1.5 must be a whole number"),
        ("passes: [{shrink: {layers: [a]}}]", "layers = 'a' must be a whole number"),
        ("passes: [{shrink: {layers: 3}}]", "layers = 3 must be a list, each item a whole number"),
        ("passes: [{shrink: {pairs: 3}}]", "pairs = 3 must be a list of pairs"),
        ("passes: [{shrink: {keep: 0.5, keep: 0.9}}]", "the key 'keep' stands there twice"),
        ("passes: [shrink]\npasses: [shrink]", "the key 'passes' stands there twice"),
        ("passes: 2024-13-45", "not valid YAML"),
        ("passes: 0b_", "not valid YAML"),
        ('passes: [!!int "x"]', "not valid YAML"),
        ("passes: [" + "9" * 6000 + "]", "not valid YAML"),
        ("passes: [{shrink: {form: int5}}]", "form = 'int5' is no format"),
        ("passes: [{shrink: {form: int4-g65}}]", "is no format"),
        ("passes: [{shrink: {form: 4}}]", "form = 4 must be a format such as int4-g64"),
        ("passes: [{shrink: {keep: 2}}]", "keep = 2.0 must be above 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(OptionError) as error:
        read_recipe(file, PASSES)
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml", PASSES)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="not UTF-8"):
        read_recipe(tmp_path / "bytes.yaml", PASSES)
