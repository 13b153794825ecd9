"""Options: validation, the command line, and the command that is put on record."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

import pytest

from gpt2fast.cli.train import add_parser
from gpt2fast.errors import OptionError
from gpt2fast.train.options import TrainOptions

pytest.importorskip("torch")
from gpt2fast.train.schedule import learning_rate

GOOD: dict[str, Any] = {"out": "o", "corpus": "python"}

BAD = [
    ({"out": ""}, "--out is missing"),
    ({"data": ("a.txt",)}, "only one of the two"),
    ({"corpus": None}, "either text files or --corpus"),
    ({"steps": 0}, "--steps 0"),
    ({"batch_size": -3}, "--batch-size -3"),
    ({"lr": 0.0}, "--lr 0.0"),
    ({"lr": float("nan")}, "--lr nan"),
    ({"warmup": 2000}, "--warmup 2000"),
    ({"dropout": 1.0}, "--dropout 1.0"),
    ({"held_out": -0.1}, "--held-out -0.1"),
    ({"precision": "int8"}, "--precision int8"),
    ({"n_embd": 100, "n_head": 3}, "--n-embd 100 is not valid: give a multiple of --n-head"),
    ({"n_head": 7}, "--n-head 7 is not valid: give a divisor of --n-embd (256)"),
    ({"stop_at": 100, "steps": 4, "warmup": 0}, "--stop-at 100 is not valid: give at most --steps"),
    ({"threads": 100000}, "--threads 100000 is not valid: give from 1 to 1024"),
    ({"threads": 0}, "--threads 0"),
    ({"n_layer": 0}, "--n-layer 0"),
    ({"context": 4096}, "--context 4096"),
    ({"init": "gpt2", "n_layer": 3}, "--n-layer cannot go with --init"),
    ({"init": "gpt2", "untied": True}, "--untied cannot go with --init"),
    ({"activation": "gelu_11"}, "gelu_11"),
    ({"tokenizer": "t", "init": "gpt2"}, "--tokenizer cannot go with --init"),
    ({"tokenizer": "t", "vocab_size": 300}, "--tokenizer cannot go with --vocab-size"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        TrainOptions(**{**GOOD, **values})
    assert message in str(error.value)


def parse(words: list[str]) -> TrainOptions:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    values = vars(parser.parse_args(words))
    values.pop("json")
    tuples = {name: tuple(values[name]) for name in ("data", "held_out_data")}
    return TrainOptions(**{**values, **tuples})


@pytest.mark.parametrize(
    "words",
    [
        "train --out o --corpus python",
        "train 'a b.txt' c/ --out 'x y' --held-out-data h.txt i.txt --steps 7 --warmup 2",
        "train a --out o --untied --lr 2e-3 --n-embd 32 --precision bf16 --held-out 0",
        "train a --out o --init gpt2 --dropout 0.1 --resume --stop-at 3",
    ],
)
def test_the_recorded_command_gives_the_same_options(words: str) -> None:
    options = parse(shlex.split(words))
    program, *again = shlex.split(options.command())
    assert program == "gpt2fast"
    repeated = parse(again)
    repeated.check_resumes(options.as_dict())
    assert repeated.command() == options.command()


def test_resuming_another_run_is_refused() -> None:
    recorded = TrainOptions(**GOOD).as_dict()
    TrainOptions(**GOOD, resume=True, save_every=7).check_resumes(recorded)
    with pytest.raises(
        OptionError,
        match=r"--lr is 0\.5 and was 0\.001, --seed is 3 and was 0; repeat",
    ):
        TrainOptions(**GOOD, lr=0.5, seed=3).check_resumes(recorded)


def test_other_text_is_named_as_on_the_command_line() -> None:
    recorded = TrainOptions(out="o", data=("a.txt", "b")).as_dict()
    with pytest.raises(OptionError, match=r": PATH is c and was a\.txt b;"):
        TrainOptions(out="o", data=("c",)).check_resumes(recorded)


@pytest.mark.parametrize(
    ("steps", "warmup"), [(4, 0), (50, 5), (999, 99), (1000, 100), (9000, 100)]
)
def test_the_warm_up_fits_the_steps_unless_it_is_given(steps: int, warmup: int) -> None:
    options = TrainOptions(**GOOD, steps=steps)
    assert options.warmup_steps == options.as_dict()["warmup"] == warmup
    assert "--warmup" not in options.command()
    options.check_resumes({**options.as_dict(), "warmup": warmup})  # as older runs have recorded it
    assert learning_rate(steps - 1, options) == pytest.approx(options.lr * options.min_lr_ratio)
    with pytest.raises(OptionError, match=f"--warmup {steps + 1} is not valid: give from 0"):
        TrainOptions(**GOOD, steps=steps, warmup=steps + 1)


def test_schedule() -> None:
    options = TrainOptions(**GOOD, steps=101, warmup=10, lr=2.0, min_lr_ratio=0.1)
    rates = [learning_rate(step, options) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.1)
    assert rates[100] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(0, TrainOptions(**GOOD, steps=1, warmup=0)) == pytest.approx(1e-3)
