"""onnxruntime on optimum's export of the model, with the cache bound from output to input."""

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
from gpt2fast.bench.peers.onnx_file import (
    MODEL,
    bytes_read,
    export,
    quantize_int4,
    quantize_int8,
)
from gpt2fast.files.json_file import read_json_object, write_json

_NOTES = "gpt2fast-bench.json"


class OnnxRuntime:
    """A loop of our own over one session: presents of a step are bound as the next one's pasts.

    That spares optimum's Python work, and every copy but those that the graph itself makes.
    """

    FORMATS: ClassVar[tuple[str, ...]] = ("float32", "int8", "int4")

    def __init__(self, work: Path) -> None:
        self._work = work
        self._api: Any = import_module("onnxruntime")
        self._session: Any = None

    def versions(self) -> dict[str, str]:
        return installed("onnxruntime", "optimum-onnx", "onnx", "transformers", "torch")

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        check_format("onnxruntime", fmt, self.FORMATS)
        refuse_layers("onnxruntime", checkpoint)

        def make(path: Path) -> None:
            if fmt == "float32":
                export(checkpoint, path)
            else:
                quantize = quantize_int8 if fmt == "int8" else quantize_int4
                quantize(self.convert(checkpoint, "float32"), path)
            config = read_json_object(checkpoint / "config.json")
            notes = {"weights": bytes_read(path), "heads": config["n_head"]}
            notes |= {"layers": config["n_layer"], "width": config["n_embd"]}
            write_json(path / _NOTES, notes)

        return cached(self._work, checkpoint, f"onnxruntime-{fmt}", self.versions(), make)

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        refuse("onnxruntime", options)
        self._notes: dict[str, int] = read_json_object(artifact / _NOTES)
        settings = self._api.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self._session = self._api.InferenceSession(
            str(artifact / MODEL), settings, providers=["CPUExecutionProvider"]
        )
        self._inputs = [i.name for i in self._session.get_inputs()]
        self._pasts = [name for name in self._inputs if name.startswith("past_key_values")]
        self._presents = [name.replace("past_key_values", "present") for name in self._pasts]
        self._binding = self._session.io_binding()

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        steps: list[NDArray[np.int64]] = []
        times: list[float] = []
        ids, start = np.array(prompts, np.int64), 0
        cache = self._empty_cache(len(prompts))
        for _ in range(new_tokens):
            logits, cache = self._step(ids, start, cache)
            start += ids.shape[1]
            ids = logits[:, -1:].argmax(axis=-1)
            steps.append(ids[:, 0])
            times.append(clock())
        rows: list[list[int]] = np.stack(steps, axis=1).tolist()
        return rows, times

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        logits, _ = self._step(np.array([tokens], np.int64), 0, self._empty_cache(1))
        rows: NDArray[np.float32] = logits[0].copy()
        return rows

    def _empty_cache(self, batch: int) -> list[Any]:
        notes = self._notes
        shape = (batch, notes["heads"], 0, notes["width"] // notes["heads"])
        value = self._api.OrtValue.ortvalue_from_numpy(np.empty(shape, np.float32))
        return [value] * len(self._pasts)

    def _step(
        self, ids: NDArray[np.int64], start: int, cache: list[Any]
    ) -> tuple[NDArray[np.float32], list[Any]]:
        """Logits (B, T, V) of ``ids`` (B, T) after ``start`` cached tokens, and the new cache."""
        batch, length = ids.shape
        positions = np.arange(start, start + length, dtype=np.int64)
        given = {
            "input_ids": np.ascontiguousarray(ids),
            "attention_mask": np.ones((batch, start + length), np.int64),
            "position_ids": np.tile(positions, (batch, 1)),
        }
        binding = self._binding
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        for name, array in given.items():
            if name in self._inputs:
                binding.bind_cpu_input(name, array)
        for name, value in zip(self._pasts, cache, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in ("logits", *self._presents):
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        logits, *presents = binding.get_outputs()
        return logits.numpy(), presents

    def weight_bytes(self) -> int | None:
        return self._notes["weights"]

    def kv_bytes_per_token(self) -> int | None:
        return 2 * 4 * self._notes["layers"] * self._notes["width"]

    def close(self) -> None:
        self._session = self._binding = None
