"""An accelerated model's weights are in memory once, and its parameters are what they were."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gpt2fast import hf  # noqa: E402
from gpt2fast.hf.weights import offload  # noqa: E402

SIZES = {"vocab_size": 9000, "n_positions": 64, "n_embd": 512, "n_layer": 5, "n_head": 8}
IDS = torch.arange(2, 30)[None]

# What a process holds of its own, in a process of its own: pages of files do not count, the system
# takes them where it needs memory.
HELD = """
import gc, sys, torch, transformers, warnings
from gpt2fast import hf
warnings.simplefilter("error")
def held():
    with open("/proc/self/status") as file:
        lines = file.read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
path = sys.argv[1]
ids = torch.arange(2, 30)[None]
small = transformers.GPT2LMHeadModel(transformers.GPT2Config(
    vocab_size=64, n_positions=64, n_embd=32, n_layer=1, n_head=2)).eval()
with torch.no_grad():
    small(ids)
    hf.accelerate(small, num_threads=1)(ids)  # what comes with the first model, whatever its size
    for where in ("file", "memory"):
        for scheme in (None, "int8"):
            before = held()
            model = transformers.GPT2LMHeadModel.from_pretrained(path).eval()
            for each in model.parameters():
                each.data = each.data.clone() if where == "memory" else each.data
            hf.accelerate(model, scheme, num_threads=1)(ids)
            print(where, scheme, held() - before, sum(each.nbytes for each in model.parameters()))
            del model, each
            gc.collect()
"""


def make() -> Any:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).eval()


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="Linux alone tells of pages")
def test_weights_are_held_once(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    command = [sys.executable, "-c", HELD, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = [line.split() for line in run.stdout.splitlines()]
    assert [line[:2] for line in found] == [
        [where, scheme] for where in ("file", "memory") for scheme in ("None", "int8")
    ]
    for where, scheme, held, weights in found:
        most = 1.5 if scheme == "None" else 0.8
        assert 0.1 * int(weights) < int(held) < most * int(weights), (where, scheme)


@pytest.mark.parametrize("kind", ["memory", "file", "tied apart"])
@torch.no_grad()
def test_parameters_are_what_they_were(tmp_path: Path, kind: str) -> None:
    theirs = make()
    if kind == "file":
        theirs.save_pretrained(tmp_path)
        ours = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    else:
        ours = copy.deepcopy(theirs)
    if kind == "tied apart":  # two parameters, one memory
        ours.lm_head.weight = torch.nn.Parameter(ours.transformer.wte.weight.data)
    hf.accelerate(ours, num_threads=1)
    known = list(ours.parameters())
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=0)
    assert all(first is second for first, second in zip(known, ours.parameters(), strict=True))
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    for model in (ours, theirs):
        model.transformer.wte.weight.mul_(1.1)
        model.transformer.h[2].mlp.c_fc.weight.mul_(1.5)
    assert ours.lm_head.weight.data_ptr() == ours.transformer.wte.weight.data_ptr()
    torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=0)
    ours.save_pretrained(tmp_path / "again")
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "again").eval()
    for model in (copy.deepcopy(ours), hf.restore(ours), back):
        torch.testing.assert_close(model(IDS).logits, theirs(IDS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("what", ["room", "disk", "write"])
@torch.no_grad()
def test_without_a_disk_they_stay_twice_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "room":
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    elif what == "disk":
        monkeypatch.setattr(offload, "_is_on_a_disk", lambda descriptor: False)
    else:
        monkeypatch.setattr(offload, "_write", _fails)
    theirs = make()
    ours = hf.accelerate(copy.deepcopy(theirs), num_threads=1)
    with pytest.warns(UserWarning, match=r"stay in memory twice: .* GiB of room .* set TMPDIR"):
        found = ours(IDS).logits
    torch.testing.assert_close(found, theirs(IDS).logits, atol=1e-4, rtol=0)


def _fails(file: Any, values: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_who_trains_keeps_the_weights_in_memory() -> None:
    """A step would bring them all back, and each packing write them to the disk again."""
    ours = hf.accelerate(make(), num_threads=1)
    addresses = [each.data_ptr() for each in ours.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours(IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        ours(IDS)
    assert [each.data_ptr() for each in ours.parameters()] == addresses


def test_memory_of_a_ram_disk_is_none_gained() -> None:
    shared = Path("/dev/shm")
    if not any(kind == "tmpfs" for _, kind in offload._mounts()) or not shared.is_dir():
        pytest.skip("there is none")
    with (shared / "gpt2fast-test").open("wb") as file:
        (shared / "gpt2fast-test").unlink()
        assert not offload._is_on_a_disk(file.fileno())
