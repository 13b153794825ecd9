"""gpt2fast's own export, run by gpt2fast's engine on onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gpt2fast.bench.peers.base import cached, check_format, installed
from gpt2fast.bench.peers.native import STORED, Native

_PRECISIONS = {"float32": "fp32", "int8": "int8", "int4": "int4", STORED: "auto"}


class NativeOnnx(Native):
    """Formats are those of ``gpt2fast export``, for onnxruntime's own operators."""

    FORMATS: ClassVar[tuple[str, ...]] = tuple(_PRECISIONS)

    def versions(self) -> dict[str, str]:
        return {**super().versions(), **installed("onnxruntime", "onnxruntime-gpu")}

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        check_format("gpt2fast-onnx", fmt, self.FORMATS)

        def make(path: Path) -> None:
            from gpt2fast.export import ExportOptions, export

            export(checkpoint, path, ExportOptions(_PRECISIONS[fmt]))

        return cached(self._work, checkpoint, f"gpt2fast-onnx-{fmt}", self.versions(), make)

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        super().load(artifact, STORED, threads, context, batch, **options)
