"""The quantized checkpoint: the same bits after a round trip, and never half of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt2fast import LLM
from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.packed import PackedTensor
from gpt2fast.checkpoint.save import save_quantized
from gpt2fast.errors import CheckpointError, OptionError
from gpt2fast.quantization import MatrixFormat, Quantization, agree
from gpt2fast.runners import FormatOptions, resolve_format
from gpt2fast.runners.cpu import CpuRunner
from support.engine.mock_runner import byte_tokenizer
from support.model_grid import BASE, PRUNED
from support.paged import PagedSequences

MakeCheckpoint = Callable[..., tuple[Path, Any]]

SCHEMES = ("int8", "int8-g32", "int8-g128", "int4", "int4-g32", "int4-g128", "int3")
TOKENS = list(range(50))


def bits(path: Path, **options: Any) -> bytes:
    with LLM(path, num_threads=1, **options) as llm:
        return llm.logits(TOKENS).tobytes()


def save(path: Path, out: Path, scheme: str = "int8") -> Path:
    with LLM(path, quantization=scheme) as llm:
        llm.save_quantized(out)
    return out


def make_runner(path: Path, scheme: str = "int8") -> CpuRunner:
    with open_checkpoint(path) as checkpoint:
        form = resolve_format(checkpoint, FormatOptions(quantization=scheme))
        return CpuRunner(checkpoint, form, num_blocks=8)


def save_with(
    runner: CpuRunner, path: Path, out: Path, scheme: str = "int8", **options: Any
) -> None:
    tensors = runner.packed_tensors()
    save_quantized(out, path, runner.config, Quantization.parse(scheme), tensors, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"tie_word_embeddings": False, "n_embd": 60, "n_inner": 77},
        {"activation_function": "xielu"},  # its parameters are bfloat16, and arithmetic with them
        {"activation_function": "prelu", "n_embd": 35, "n_head": 5},
        PRUNED,
    ],
    ids=["base", "untied", "xielu", "prelu", "pruned"],
)
def test_round_trip(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, scheme: str, overrides: dict[str, Any]
) -> None:
    path, _ = make_checkpoint(**{**BASE, **overrides})
    out = save(path, tmp_path / "a" / "out", scheme)
    assert bits(out) == bits(path, quantization=scheme)
    with open_checkpoint(path) as source, open_checkpoint(out) as saved:
        assert saved.config == source.config
        assert saved.quantization == Quantization.parse(scheme)
        assert saved.names == source.names
        assert saved.shapes == source.shapes
        assert saved.num_parameters == source.num_parameters
        assert saved.num_bytes == sum(saved.bytes_by_dtype.values()) < source.num_bytes
    again = save_again(out, tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert (again / file).read_bytes() == (out / file).read_bytes()


def test_a_mixed_scheme(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """Floats as plain tensors, integers as panels; the same bits and files after a round trip."""
    path, _ = make_checkpoint(**{**BASE, "n_embd": 60, "n_inner": 77})
    own = {
        "wte.weight": MatrixFormat("bfloat16"),
        "h.0.attn.c_attn.weight": MatrixFormat("float32"),
        "h.1.mlp.c_fc.weight": MatrixFormat("int3", 32),
        "h.1.mlp.c_proj.weight": MatrixFormat("bfloat16"),
    }
    scheme = Quantization(MatrixFormat("int4", 64), MatrixFormat("int8", 64), tuple(own.items()))
    with open_checkpoint(path) as source:
        form = resolve_format(source, FormatOptions("auto", scheme, "float32"))
        runner = CpuRunner(source, form, num_blocks=8)
        exact = {name: source.tensor(name).float32() for name in own}
    want = PagedSequences(runner).logits(np.array(TOKENS, np.int32), [len(TOKENS)])
    out = tmp_path / "out"
    save_quantized(out, path, runner.config, scheme, runner.packed_tensors())
    assert bits(out, kv_cache_dtype="float32") == want.tobytes()
    with open_checkpoint(out) as saved:
        assert saved.quantization == scheme
        assert saved.bytes_by_dtype.keys() == {"F32", "BF16", "int4-g64", "int3-g32"}
        kinds = {name: saved.tensor(name).dtype for name in own}
        assert list(kinds.values()) == ["BF16", "F32", "int3-g32", "BF16"]
        name = "h.0.attn.c_attn.weight"  # no factor moves into floats
        assert saved.tensor(name).float32().tobytes() == exact[name].tobytes()
        error = np.abs(saved.tensor("wte.weight").float32() / exact["wte.weight"] - 1)
        assert 0 < error.max() <= 2**-8
    again = save_again(out, tmp_path / "again")
    for file in ("model.safetensors", "config.json"):
        assert (again / file).read_bytes() == (out / file).read_bytes()
    with pytest.raises(OptionError, match=r"is stored in mixed \(int4-g64, int8-g64, float32, i"):
        LLM(out, quantization="int4")


def save_again(path: Path, out: Path) -> Path:
    with LLM(path) as llm:
        llm.save_quantized(out)
    return out


def test_the_file_holds_the_panels_under_canonical_names(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path, _ = make_checkpoint(**BASE)
    out = save(path, tmp_path / "out", "int4")
    runner = make_runner(path, "int4")
    stored = load_file(out / "model.safetensors")  # by the format's own library
    with open_checkpoint(out) as checkpoint:
        assert set(stored) == set(checkpoint.names)
        for name, array in stored.items():
            tensor = checkpoint.tensor(name)
            if name in runner.layouts:
                assert array.tobytes() == runner._decoder.packed(name).tobytes()
                assert array.dtype == np.uint8
                assert isinstance(tensor, PackedTensor)
                assert tensor.float32().shape == tensor.shape == checkpoint.shapes[name]
            else:
                assert array.dtype == np.float32
                assert array.shape == tensor.shape
                assert array.tobytes() == runner._decoder.vector(name).tobytes()


def test_values_are_those_of_the_float_checkpoint_rounded(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path, _ = make_checkpoint(**BASE)
    out = save(path, tmp_path / "out")
    with open_checkpoint(path) as source, open_checkpoint(out) as saved:
        for name in source.names:
            want, got = source.tensor(name).float32(), saved.tensor(name).float32()
            norm = {"attn.c_attn.weight": "ln_1", "mlp.c_fc.weight": "ln_2"}
            part = name.split(".", 2)[-1]
            if part in norm:
                # A factor a channel has moved from the norm into the matrix: undo it.
                gain = f"{name.removesuffix(part)}{norm[part]}.weight"
                factor = source.tensor(gain).float32() / saved.tensor(gain).float32()
                got = got / factor[:, None]
            elif ".ln_" in f".{name}" and "ln_f" not in name:
                continue
            # A step is at most 1/127 of the largest value of a group, and rounded up a little.
            assert np.abs(got - want).max() <= 0.02 * np.abs(want).max(), name


def test_shards(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path, _ = make_checkpoint(**BASE)
    runner, most = make_runner(path), 20_000
    written: list[int] = []
    save_with(runner, path, tmp_path / "out", max_shard_bytes=most, written=written.append)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < most + 4096 for file in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(written)
    assert bits(tmp_path / "out") == bits(path, quantization="int8")


def test_what_goes_with_the_model(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path, _ = make_checkpoint(seed=5, **BASE)  # a directory of its own, to be written to
    byte_tokenizer().save(str(path / "tokenizer.json"))
    (path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    (path / "notes.txt").write_text("not of the model")
    (tmp_path / "out").mkdir()  # an empty directory may be there
    out = save(path, tmp_path / "out")
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    fields = json.loads((path / "config.json").read_text())
    fields["quantization_config"] = Quantization.parse("int8").to_config()
    assert json.loads((out / "config.json").read_text()) == fields
    with LLM(out) as llm:
        assert llm.config.eos_token_ids == (3, 4)
        assert llm.tokenizer is not None
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_head_unlike_the_table_stays_so(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path, _ = make_checkpoint(seed=6, **BASE, tie_word_embeddings=False)
    fields = json.loads((path / "config.json").read_text())
    fields["tie_word_embeddings"] = True
    (path / "config.json").write_text(json.dumps(fields))
    with pytest.warns(UserWarning, match="the stored head is used"):
        out = save(path, tmp_path / "out")
    with LLM(out) as llm:
        assert not llm.config.tie_word_embeddings


@pytest.mark.parametrize("wanted", [None, "int8", "int8-g64"])
def test_a_stored_scheme_may_be_named(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, wanted: str | None
) -> None:
    out = save(make_checkpoint(**BASE)[0], tmp_path / "out")
    assert bits(out, quantization=wanted) == bits(out)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantization": "int4"}, r"quantization = 'int4'.*is stored in int8-g64"),
        ({"quantization": "int8-g32"}, r"quantization = 'int8-g32'.*is stored in int8-g64"),
        ({"dtype": "bfloat16"}, r"dtype = 'bfloat16'.*is stored in int8-g64"),
        ({"device": "torch", "quantization": "int4"}, r"is stored in int8-g64"),
    ],
)
def test_another_scheme_is_refused(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    out = save(make_checkpoint(**BASE)[0], tmp_path / "out")
    with pytest.raises(OptionError, match=says):
        LLM(out, **options)


def test_any_group_size_goes_by_the_plain_name() -> None:
    stored = Quantization.parse("int4-g32")
    assert agree("int4", stored, "model") == stored
    assert agree("int4-g32", stored, "model") == stored
    assert agree(None, None, "model") is None


def test_torch_runs_the_values_that_the_integers_stand_for(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    path, _ = make_checkpoint(**BASE)
    out = save(path, tmp_path / "out")
    with LLM(path) as exact, LLM(out) as ours, LLM(out, device="torch") as other:
        want, got = exact.logits(TOKENS), other.logits(TOKENS)
        assert 0 < np.abs(got - want).max() < 0.05 * np.ptp(want)
        assert np.abs(ours.logits(TOKENS) - got).max() < 0.05 * np.ptp(want)


def test_only_a_quantized_model_is_saved(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path, _ = make_checkpoint(**BASE)
    for options in ({}, {"dtype": "bfloat16"}, {"device": "torch"}):
        with LLM(path, **options) as llm, pytest.raises(OptionError, match="not quantized"):
            llm.save_quantized(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_out_that_is_taken_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    path, _ = make_checkpoint(**BASE)
    before = {file.name for file in path.iterdir()}
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    with LLM(path, quantization="int8") as llm:
        for out in (path, tmp_path / "file", tmp_path / "link", tmp_path / "file" / "below"):
            with pytest.raises(OptionError, match=str(out)):
                llm.save_quantized(out)
    assert {file.name for file in path.iterdir()} == before
    assert {file.name for file in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_an_interrupt_leaves_nothing(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, error: BaseException
) -> None:
    path, _ = make_checkpoint(**BASE)
    runner = make_runner(path)
    seen: list[str] = []

    def interrupt(num_bytes: int) -> None:
        seen.extend(file.name for file in tmp_path.glob(".out-*.partial/model.safetensors"))
        raise error

    with pytest.raises(type(error)):
        save_with(runner, path, tmp_path / "out", written=interrupt)
    assert seen == ["model.safetensors"], "the interrupt came while the file was written"
    assert not any(tmp_path.iterdir())


def test_something_put_there_meanwhile_is_kept(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    path, _ = make_checkpoint(**BASE)
    out = tmp_path / "out"

    def put(num_bytes: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine").write_text("mine")

    with pytest.raises(OptionError, match="written there meanwhile"):
        save_with(make_runner(path), path, out, written=put)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert [file.name for file in out.iterdir()] == ["mine"]


def test_a_write_that_fails_leaves_nothing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    """The limit on a file's size stands in for a full disk: the write fails half way."""
    pytest.importorskip("resource")
    path, _ = make_checkpoint(**BASE)
    code = """
import resource, sys
from gpt2fast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(main(["quantize", sys.argv[1], sys.argv[2], "--quantization", "int8"]))
"""
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    file = tmp_path / "out" / "model.safetensors"
    assert done.stderr.startswith(f"gpt2fast: error: {file}: cannot be written: no file may have ")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_named_before_writing(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2**20))
    with pytest.raises(OptionError, match=r"1\.\d MB are needed there, 1\.0 MB are free"):
        save(make_checkpoint(**BASE)[0], tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_the_model_on_disk_may_be_gone(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    import shutil

    path, _ = make_checkpoint(**BASE)
    shutil.copytree(path, tmp_path / "model")
    with LLM(tmp_path / "model", quantization="int8") as llm:
        shutil.rmtree(tmp_path / "model")
        with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
            llm.save_quantized(tmp_path / "out")
    assert not any(tmp_path.iterdir())
