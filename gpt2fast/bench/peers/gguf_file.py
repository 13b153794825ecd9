"""A Hugging Face GPT-2 directory as a GGUF file, which is what llama.cpp loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import CheckpointError, UnsupportedError
from gpt2fast.files.json_file import read_json_object

_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

# GPT-2's name within a layer: llama.cpp's, and whether Conv1D's (inputs, outputs) is transposed.
_LAYER = {
    "ln_1": ("attn_norm", False),
    "attn.c_attn": ("attn_qkv", True),
    "attn.c_proj": ("attn_output", True),
    "ln_2": ("ffn_norm", False),
    "mlp.c_fc": ("ffn_up", True),
    "mlp.c_proj": ("ffn_down", True),
}
_TOP = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
}


def write_gguf(checkpoint: Path, path: Path, dtype: str) -> None:
    """Write ``path`` with matrices in ``dtype`` ("F32", "F16", "BF16"), vectors in float32.

    The file has no tokenizer: token ids go in and out. Raises ``UnsupportedError`` for what
    llama.cpp's GPT-2 does not know: another activation than gelu_new, other attention scales.
    """
    config = read_json_object(checkpoint / "config.json")
    _check(config)
    gguf = import_module("gguf")
    writer = gguf.GGUFWriter(path, "gpt2", use_temp_file=False)
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type({"F32": 0, "F16": 1, "BF16": 32}[dtype])
    kind = gguf.GGMLQuantizationType[dtype]
    for name, array in _renamed(checkpoint):
        # The position table is added, row by row, to float32 embeddings.
        if array.ndim == 2 and name != "position_embd.weight" and dtype != "F32":
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_bytes(path: Path) -> int:
    """Bytes of the tensors of a GGUF file that a decode step reads in full.

    Without the position table, of which single rows are read, and without the embedding table where
    the file has a head of its own.
    """
    gguf = import_module("gguf")
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    sizes.pop("position_embd.weight", None)
    if "output.weight" in sizes:
        sizes.pop("token_embd.weight")
    return sum(sizes.values())


def _check(config: dict[str, Any]) -> None:
    wanted = {
        "activation_function": ("gelu_new", ("gelu_new", "gelu_pytorch_tanh")),
        "scale_attn_weights": (True, (True,)),
        "scale_attn_by_inverse_layer_idx": (False, (False,)),
    }
    for field, (default, known) in wanted.items():
        value = config.get(field, default)
        if value not in known:
            raise UnsupportedError(
                f"config.json: {field} = {value!r} cannot be run by llama.cpp; leave it out of "
                f"the comparison"
            )


def _renamed(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """llama.cpp's names with float32 arrays, matrices as (outputs, inputs)."""
    for name, array in _tensors(checkpoint):
        name = name.removeprefix("transformer.")
        if name.startswith("h."):
            _, layer, rest = name.split(".", 2)
            module, _, parameter = rest.rpartition(".")
            if module not in _LAYER:
                continue  # the causal mask, which old checkpoints store as attn.bias
            target, transposed = _LAYER[module]
            if transposed and parameter == "weight":
                array = np.ascontiguousarray(array.T)
            yield f"blk.{layer}.{target}.{parameter}", array
        elif name in _TOP:
            yield _TOP[name], array
        elif name == "lm_head.weight" and not _is_tied(checkpoint):
            yield "output.weight", array


def _is_tied(checkpoint: Path) -> bool:
    config = read_json_object(checkpoint / "config.json")
    return bool(config.get("tie_word_embeddings", True))


def _tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{checkpoint}: no *.safetensors file; save the model as safetensors")
    for file in files:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            yield name, _tensor(file, name, 8 + size, entry)


def _tensor(file: Path, name: str, start: int, entry: dict[str, Any]) -> NDArray[np.float32]:
    if entry["dtype"] not in _NUMPY:
        return np.empty(0, np.float32)  # a mask of booleans, by its name not used
    dtype = np.dtype(_NUMPY[entry["dtype"]])
    offset = start + entry["data_offsets"][0]
    stored: NDArray[Any] = np.memmap(file, dtype, "r", offset, tuple(entry["shape"]))
    if entry["dtype"] == "BF16":  # the upper half of a float32's bits
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(stored, np.float32)
