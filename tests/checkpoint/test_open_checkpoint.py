"""Checkpoints as transformers writes them, and the ways in which their tensors can be wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoint import Checkpoint, open_checkpoint
from gpt2fast.errors import CheckpointError, UnsupportedError
from support.model_grid import BASE, FLAG_GRID

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

Make = Callable[..., tuple[Path, Any]]
TINY = {"vocab_size": 31, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}


def assert_same_weights(checkpoint: Checkpoint, model: Any) -> None:
    state = {k.removeprefix("transformer."): v for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert set(checkpoint.names) == set(state)
    for name, theirs in state.items():
        ours = checkpoint.tensor(name)
        assert ours.shape == tuple(theirs.shape)
        np.testing.assert_array_equal(ours.float32(), theirs.float().numpy())


@pytest.fixture
def tiny(tmp_path: Path, make_checkpoint: Make) -> Path:
    """A copy of a small tied checkpoint, free to be damaged."""
    path, _ = make_checkpoint(**TINY)
    return Path(shutil.copytree(path, tmp_path / "tiny"))


def state_of(path: Path) -> dict[str, Any]:
    return dict(safetensors_torch.load_file(path / "model.safetensors"))


def write_state(path: Path, state: dict[str, Any]) -> None:
    # A new file: an old map of the previous one must not see it change.
    (path / "model.safetensors").unlink()
    contiguous = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    safetensors_torch.save_file(contiguous, path / "model.safetensors")


def edit_config(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize("fields", FLAG_GRID)
def test_reads_what_transformers_saved(make_checkpoint: Make, fields: dict[str, Any]) -> None:
    path, model = make_checkpoint(**fields)
    with open_checkpoint(path) as checkpoint:
        assert_same_weights(checkpoint, model)
        assert checkpoint.num_parameters == model.num_parameters()
        assert checkpoint.num_parameters == checkpoint.config.num_parameters
        # Not four bytes each: versions of transformers differ in the type of xIELU's parameters.
        assert checkpoint.num_bytes == sum(
            checkpoint.tensor(name).data.nbytes for name in checkpoint.names
        )
        assert checkpoint.load_tokenizer() is None


def test_names_are_in_the_order_of_the_forward_pass(make_checkpoint: Make) -> None:
    path, _ = make_checkpoint(**BASE, tie_word_embeddings=False)
    with open_checkpoint(str(path)) as checkpoint:
        names = checkpoint.names
    assert names[:4] == ["wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.ln_1.bias"]
    assert names[-3:] == ["ln_f.weight", "ln_f.bias", "lm_head.weight"]


def test_names_without_prefix_and_with_mask_buffers(tiny: Path, make_checkpoint: Make) -> None:
    _, model = make_checkpoint(**TINY)
    state = {name.removeprefix("transformer."): t for name, t in state_of(tiny).items()}
    for layer in range(2):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16, dtype=torch.uint8)
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    write_state(tiny, state)
    with open_checkpoint(tiny) as checkpoint:
        assert_same_weights(checkpoint, model)
        assert checkpoint.num_parameters == model.num_parameters()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_stored_types(tiny: Path, dtype: str) -> None:
    state = {name: t.to(getattr(torch, dtype)) for name, t in state_of(tiny).items()}
    write_state(tiny, state)
    with open_checkpoint(tiny) as checkpoint:
        assert set(checkpoint.bytes_by_dtype) == {
            {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[dtype]
        }
        for name in checkpoint.names:
            want = state[f"transformer.{name}"].float().numpy()
            np.testing.assert_array_equal(checkpoint.tensor(name).float32(), want)


def test_float32_is_the_map_itself_and_outlives_close(tiny: Path) -> None:
    want = state_of(tiny)["transformer.wte.weight"].numpy()
    with open_checkpoint(tiny) as checkpoint:
        stored = checkpoint.tensor("wte.weight")
    assert np.shares_memory(stored.float32(), stored.data)
    assert not stored.data.flags.writeable
    stored.release()
    np.testing.assert_array_equal(stored.float32(), want)
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.tensor("wte.weight")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(tmp_path: Path, make_checkpoint: Make, kind: str, tied: bool) -> None:
    _, model = make_checkpoint(**TINY, tie_word_embeddings=tied)
    state = {k: v for k, v in model.state_dict().items() if not (tied and "lm_head" in k)}
    path = save_shards(tmp_path, model, state, kind)
    with open_checkpoint(path) as checkpoint:
        assert_same_weights(checkpoint, model)


def save_shards(path: Path, model: Any, state: dict[str, Any], kind: str) -> Path:
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    weight_map = {name: f"{stem}-{i % 3 + 1:05}-of-00003.{kind}" for i, name in enumerate(state)}
    for shard in set(weight_map.values()):
        part = {
            name: state[name].contiguous().clone() for name in state if weight_map[name] == shard
        }
        save = safetensors_torch.save_file if kind == "safetensors" else torch.save
        save(part, path / shard)
    model.config.save_pretrained(path)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return path


def test_bad_shards(tmp_path: Path, make_checkpoint: Make) -> None:
    _, model = make_checkpoint(**TINY, tie_word_embeddings=False)
    path = save_shards(tmp_path, model, model.state_dict(), "safetensors")
    index = path / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    name, other = list(good)[:2]

    def expect(weight_map: Any, match: str) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=match) as caught:
            open_checkpoint(path)
        assert index.name in str(caught.value)

    expect({**good, name: good[other]}, "should be in")
    expect({k: v for k, v in good.items() if k != name}, "should be in no shard")
    expect({**good, "extra": good[name]}, "is in no shard")
    expect({**good, name: "absent.safetensors"}, "shards are missing: absent")
    for bad in ("../x.safetensors", "/etc/passwd", "a\\b", "", "..", "*", 5, None):
        expect({**good, name: bad}, "not a plain file name")
    expect({}, "no weight_map")
    expect([1], "no weight_map")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before-1.6"])
def test_torch_bin(tiny: Path, make_checkpoint: Make, legacy: bool) -> None:
    _, model = make_checkpoint(**TINY)
    (tiny / "model.safetensors").unlink()
    torch.save(
        model.state_dict(), tiny / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy
    )
    with open_checkpoint(tiny) as checkpoint:  # both names of the tied table are stored, and equal
        assert_same_weights(checkpoint, model)


class _Evil:
    """Its unpickling would create a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("was-here"),))


@pytest.mark.parametrize(
    "content", [{"wte.weight": _Evil()}, {"wte.weight": 3}, [torch.ones(3)], {"state_dict": {}}]
)
def test_torch_bin_holds_tensors_alone(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tiny)
    (tiny / "model.safetensors").unlink()
    torch.save(content, tiny / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin") as caught:
        open_checkpoint(tiny)
    assert "weights_only" not in str(caught.value)
    assert not Path("was-here").exists()


@pytest.mark.filterwarnings("error")
def test_torch_bin_of_another_pickle_protocol(tiny: Path) -> None:
    torch.save(state_of(tiny), tiny / "pytorch_model.bin", pickle_protocol=4)
    (tiny / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="another protocol than torch's own"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("keep", [0, 3, 1000, -7])
def test_truncated_torch_bin(tiny: Path, keep: int) -> None:
    torch.save(state_of(tiny), tiny / "pytorch_model.bin")
    (tiny / "model.safetensors").unlink()
    content = (tiny / "pytorch_model.bin").read_bytes()
    (tiny / "pytorch_model.bin").write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: is damaged") as caught:
        open_checkpoint(tiny)
    assert "weights_only" not in str(caught.value)


def test_tied_head_stored_alone_or_unlike_the_table(tiny: Path) -> None:
    state = state_of(tiny)
    table = state.pop("transformer.wte.weight")
    write_state(tiny, {**state, "lm_head.weight": table})
    with open_checkpoint(tiny) as checkpoint:
        assert "lm_head.weight" not in checkpoint.names
        np.testing.assert_array_equal(checkpoint.tensor("wte.weight").float32(), table.numpy())
    write_state(tiny, {**state, "lm_head.weight": table, "transformer.wte.weight": table * 2})
    with pytest.warns(UserWarning, match="the stored head is used"):
        checkpoint = open_checkpoint(tiny)
    assert not checkpoint.config.tie_word_embeddings
    if int(transformers.__version__.split(".")[0]) < 5:
        return  # ties them all the same, and drops the stored head
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tiny)
    for ours, name in ((checkpoint.names[0], "transformer.wte.weight"), ("lm_head.weight",) * 2):
        want = theirs.state_dict()[name].numpy()
        np.testing.assert_array_equal(checkpoint.tensor(ours).float32(), want)


def test_untied_head_is_required(tiny: Path) -> None:
    edit_config(tiny, tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match=r"missing \(1\): lm_head.weight"):
        open_checkpoint(tiny)


def test_all_wrong_tensors_are_listed_at_once(tiny: Path) -> None:
    state = state_of(tiny)
    del state["transformer.h.1.ln_2.bias"], state["transformer.ln_f.weight"]
    state["transformer.h.0.attn.c_attn.weight"] = torch.zeros(8, 8)
    state["transformer.h.2.ln_1.bias"] = torch.zeros(8)
    state["lm_head.bias"] = torch.zeros(31)
    write_state(tiny, state)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tiny)
    message = str(caught.value)
    assert "missing (2): h.1.ln_2.bias, ln_f.weight" in message
    assert "unexpected (2): " in message
    assert "lm_head.bias" in message
    assert "transformer.h.2.ln_1.bias" in message
    assert "c_attn.weight is [8, 8], the config says [8, 24]" in message
    assert str(tiny) in message


def test_vocabulary_and_context_must_equal_the_config(tiny: Path) -> None:
    edit_config(tiny, vocab_size=32)
    with pytest.raises(
        CheckpointError, match=r"wte.weight is \[31, 8\], the config says \[32, 8\]"
    ):
        open_checkpoint(tiny)
    edit_config(tiny, vocab_size=31, n_positions=17)
    with pytest.raises(CheckpointError, match=r"wpe.weight is \[16, 8\]"):
        open_checkpoint(tiny)


def test_both_prefixed_and_not(tiny: Path) -> None:
    write_state(tiny, {**state_of(tiny), "ln_f.bias": torch.zeros(8)})
    with pytest.raises(CheckpointError, match="with and without the prefix"):
        open_checkpoint(tiny)


def test_head_of_another_task_is_named_and_left_out(tiny: Path) -> None:
    write_state(tiny, {**state_of(tiny), "score.weight": torch.zeros(2, 8)})
    with pytest.warns(UserWarning, match=r"not used: score\.weight"):
        assert "score.weight" not in open_checkpoint(tiny).names


@pytest.mark.parametrize("dtype", ["int32", "int8", "float8_e4m3fn"])
def test_other_types_are_refused(tiny: Path, dtype: str) -> None:
    state = state_of(tiny)
    state["transformer.wpe.weight"] = torch.zeros(16, 8).to(getattr(torch, dtype))
    write_state(tiny, state)
    with pytest.raises(UnsupportedError, match=r"model.safetensors: tensor 'transformer.wpe"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("generation", [None, {}, {"eos_token_id": 5}, {"eos_token_id": [3, 5]}])
def test_end_of_text_is_that_of_generate(tiny: Path, generation: dict[str, Any] | None) -> None:
    edit_config(tiny, eos_token_id=7)
    (tiny / "generation_config.json").unlink()
    if generation is not None:
        (tiny / "generation_config.json").write_text(json.dumps(generation))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tiny).generation_config.eos_token_id
    checkpoint = open_checkpoint(tiny)
    assert checkpoint.generation_config == (generation or {})
    want = [] if theirs is None else theirs if isinstance(theirs, list) else [theirs]
    assert list(checkpoint.config.eos_token_ids) == want


def test_damaged_json_is_named(tiny: Path) -> None:
    for name in ("generation_config.json", "config.json"):
        for content in ("{", "[1]", "\xff", "[" * 100_000, ""):
            (tiny / name).write_text(content, encoding="latin-1")
            with pytest.raises(CheckpointError, match=name):
                open_checkpoint(tiny)
    (tiny / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read"):
        open_checkpoint(tiny)


def test_a_pipe_as_configuration_is_refused(tiny: Path) -> None:
    (tiny / "config.json").unlink()
    os.mkfifo(tiny / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json: is not a regular file"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        ("\n<!DOCTYPE html><html></html>", "is a web page"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_named(
    tiny: Path, name: str, content: str, says: str
) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name}: .*{says}"):
        open_checkpoint(tiny)


def test_no_weights(tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights; looked for model.safetensors"):
        open_checkpoint(tiny)


def test_unknown_tensor_name(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_head\.weight'"):
        open_checkpoint(tiny).tensor("lm_head.weight")


def test_opening_imports_neither_torch_nor_transformers(tiny: Path) -> None:
    code = (
        "import sys; from gpt2fast.checkpoint import open_checkpoint\n"
        f"c = open_checkpoint({str(tiny)!r}); c.tensor('wte.weight').float32()\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps_rollup")
def test_release_takes_the_pages_out_of_memory(make_checkpoint: Make) -> None:
    path, _ = make_checkpoint(**{**BASE, "vocab_size": 40_000, "n_embd": 96, "n_layer": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = open_checkpoint(path).tensor("wte.weight")
    stored.data.sum()
    before = resident_bytes()
    stored.release()
    assert before - resident_bytes() > 0.9 * stored.data.nbytes
    assert np.isfinite(stored.float32()).all()


def resident_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel reports no Rss")
