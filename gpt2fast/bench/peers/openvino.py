"""OpenVINO on optimum-intel's stateful export, driven through one infer request."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpt2fast.bench.peers.base import (
    Clock,
    Generated,
    cached,
    check_format,
    installed,
    refuse,
    refuse_layers,
)
from gpt2fast.files.json_file import read_json_object, write_json

_NOTES = "gpt2fast-bench.json"
_MODEL = "openvino_model.xml"
_GROUP = 128  # weights that share a scale in 4 bits
# What may stand between a constant and the operation that it is the weight of.
_TRANSPARENT = {"Convert", "Subtract", "Multiply", "Reshape", "Transpose"}


class OpenVino:
    """The latency hint, one stream; precision of KV cache and of activations as the plugin chooses.

    float32 asks for float32 arithmetic, which is not the default on CPUs with bfloat16.
    """

    FORMATS: ClassVar[tuple[str, ...]] = ("float32", "int8", "int4")

    def __init__(self, work: Path) -> None:
        self._work = work
        self._api: Any = import_module("openvino")
        self._compiled: Any = None

    def versions(self) -> dict[str, str]:
        return installed("openvino", "optimum-intel", "nncf", "transformers", "torch")

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        check_format("openvino", fmt, self.FORMATS)
        refuse_layers("openvino", checkpoint)

        def make(path: Path) -> None:
            _export(checkpoint, path, fmt)
            config = read_json_object(checkpoint / "config.json")
            graph = self._api.Core().read_model(path / _MODEL)
            notes = {"weights": _bytes_read(graph), "values": config["n_layer"] * config["n_embd"]}
            notes["heads"] = config["n_layer"] * config["n_head"]
            write_json(path / _NOTES, notes)

        return cached(self._work, checkpoint, f"openvino-{fmt}", self.versions(), make)

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        refuse("openvino", options)
        self._notes: dict[str, int] = read_json_object(artifact / _NOTES)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if fmt == "float32":
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        core = self._api.Core()
        self._compiled = core.compile_model(artifact / _MODEL, "CPU", settings)
        self._inputs = {name for port in self._compiled.inputs for name in port.get_names()}
        self._request = self._compiled.create_infer_request()

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        self._request.reset_state()
        steps: list[NDArray[np.int64]] = []
        times: list[float] = []
        ids, start = np.array(prompts, np.int64), 0
        for _ in range(new_tokens):
            logits = self._step(ids, start)
            start += ids.shape[1]
            ids = logits[:, -1:].argmax(axis=-1)
            steps.append(ids[:, 0])
            times.append(clock())
        rows: list[list[int]] = np.stack(steps, axis=1).tolist()
        return rows, times

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._request.reset_state()
        rows: NDArray[np.float32] = self._step(np.array([tokens], np.int64), 0)[0].copy()
        return rows

    def _step(self, ids: NDArray[np.int64], start: int) -> NDArray[np.float32]:
        """Logits (B, T, V) of ``ids`` (B, T) after ``start`` tokens; a view of the plugin's."""
        batch, length = ids.shape
        positions = np.arange(start, start + length, dtype=np.int64)
        given = {
            "input_ids": np.ascontiguousarray(ids),
            "attention_mask": np.ones((batch, start + length), np.int64),
            "position_ids": np.tile(positions, (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
        tensor = self._api.Tensor
        for name in self._inputs & given.keys():
            self._request.set_tensor(name, tensor(given[name], shared_memory=True))
        self._request.infer()
        logits: NDArray[np.float32] = self._request.get_tensor("logits").data
        return logits

    def weight_bytes(self) -> int | None:
        return self._notes["weights"]

    def kv_bytes_per_token(self) -> int | None:
        kind = self._compiled.get_property("KV_CACHE_PRECISION").get_type_name()
        if kind == "u8":  # with a float32 scale and zero point for each head
            return 2 * (self._notes["values"] + 8 * self._notes["heads"])
        sizes = {"f32": 4, "f16": 2, "bf16": 2}
        return 2 * sizes[kind] * self._notes["values"] if kind in sizes else None

    def close(self) -> None:
        self._compiled = self._request = None


def _export(checkpoint: Path, path: Path, fmt: str) -> None:
    """Write a stateful model: float32, 8 bits with a scale a column, or 4 bits in groups.

    nncf keeps the head, which is the embedding as well, of a 4-bit model in 8 bits.
    """
    intel = import_module("optimum.intel")
    if fmt == "float32":  # whatever the checkpoint stores
        import_module("optimum.exporters.openvino").main_export(
            str(checkpoint),
            output=path,
            task="text-generation-with-past",
            library_name="transformers",
            local_files_only=True,
            ov_config=intel.OVConfig(dtype="fp32"),
        )
        return
    options = {"bits": 8} if fmt == "int8" else {"bits": 4, "sym": True, "group_size": _GROUP}
    model = intel.OVModelForCausalLM.from_pretrained(
        str(checkpoint),
        export=True,
        compile=False,
        local_files_only=True,
        quantization_config=intel.OVWeightQuantizationConfig(**options),
    )
    model.save_pretrained(path)


def _bytes_read(model: Any) -> int:
    """Bytes of the constants that a step reads in full: all but those that only Gather looks up."""
    total = 0
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and _readers(node) - {"Gather"}:
            total += int(node.get_byte_size())
    return total


def _readers(node: Any) -> set[str]:
    """Types of the operations that take ``node``, directly or through mere decompression."""
    found: set[str] = set()
    for output in node.outputs():
        for port in output.get_target_inputs():
            reader = port.get_node()
            kind = reader.get_type_name()
            found |= _readers(reader) if kind in _TRANSPARENT else {kind}
    return found
