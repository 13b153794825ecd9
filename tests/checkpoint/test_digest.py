"""One digest of the weights, for reports, work directories and exports."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.digest import weights_digest
from gpt2fast.checkpoint.names import stored_name


def digest(directory: Path) -> str:
    with open_checkpoint(directory) as checkpoint:
        return weights_digest(checkpoint)


def copy_of_demo(directory: Path) -> Path:
    with open_checkpoint("demo") as checkpoint:
        shutil.copytree(checkpoint.path, directory)
    return directory / "model.safetensors"


def test_files_that_are_not_read_do_not_count(tmp_path: Path) -> None:
    weights = copy_of_demo(tmp_path / "copy")
    expected = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / "copy" / "pytorch_model.bin").write_bytes(b"safetensors are read before it")
    assert digest(tmp_path / "copy") == expected


def test_shards_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    weights = copy_of_demo(tmp_path / "copy")
    tensors = load_file(weights)
    weights.unlink()
    names = sorted(tensors)
    shards = {"model-2.safetensors": names[:5], "model-1.safetensors": names[5:]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, tmp_path / "copy" / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (tmp_path / "copy" / "model.safetensors.index.json").write_text(json.dumps(index))
    content = b"".join((tmp_path / "copy" / file).read_bytes() for file in sorted(shards))
    assert digest(tmp_path / "copy") == hashlib.sha256(content).hexdigest()


def test_names_as_transformers_has_them() -> None:
    assert stored_name("h.0.ln_1.bias") == "transformer.h.0.ln_1.bias"
    assert stored_name("transformer.h.0.ln_1.bias") == "transformer.h.0.ln_1.bias"
    assert stored_name("lm_head.weight") == "lm_head.weight"
