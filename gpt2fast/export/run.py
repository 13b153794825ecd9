"""From a checkpoint to a verified directory with ``model.onnx``, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.checkpoint import open_checkpoint
from gpt2fast.checkpoint.checkpoint import QUANTIZATION_FIELD
from gpt2fast.checkpoint.json_file import read_json_object
from gpt2fast.checkpoint.resolve import SMALL_FILES
from gpt2fast.checkpoint.safetensors_writer import write_json
from gpt2fast.checkpoint.save import check_out, clear_errors, staged
from gpt2fast.checkpoint.weight_files import GRAPH
from gpt2fast.engine.llm import LLM
from gpt2fast.errors import MissingDependencyError, OptionError, show

if TYPE_CHECKING:
    from gpt2fast.checkpoint import Checkpoint

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "int4")
TARGETS = ("ort", "portable")
REPORT = "report.json"
_CONFIG = "config.json"
_NEEDED = ("onnx_ir", "onnxruntime")
Progress = Callable[[str, int, int], None]  # what is done, steps done, steps there are


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported. Raises OptionError for a precision that is not known.

    ``precision``: of the weights; "auto" is what the checkpoint is stored in. Embedding and head
    are int8 under "int4" and "int8"; "bf16" computes in float32. ``target``: "ort" has operators of
    onnxruntime's own, "portable" standard ones alone.
    """

    precision: str = "auto"
    target: str = "ort"
    num_threads: int | None = None  # of rounding and of verification
    revision: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("precision", PRECISIONS), ("target", TARGETS)):
            value = getattr(self, name)
            if value not in known:
                raise OptionError(
                    f"{name} = {show(value)} is not known; use one of {', '.join(known)}"
                )


def _quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def export(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ExportOptions | None = None,
    progress: Progress = _quiet,
) -> dict[str, Any]:
    """Write the directory ``out``: ``model.onnx`` with its weights in ``model.onnx.data``, the
    configuration, the tokenizer, and ``report.json``, which is returned.

    Raises OptionError where ``out`` is taken or the precision does not fit the checkpoint,
    GPT2FastError where onnxruntime gives other results than this library; ``out`` is then not made.
    """
    options, target = options or ExportOptions(), Path(out)
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise MissingDependencyError(
            f"exporting needs {', '.join(missing)}: pip install 'gpt2fast[onnx]'"
        )
    check_out(target)
    with clear_errors(target), staged(target) as stage:
        progress("reading", 0, 4)
        with _source(model, stage, options) as (path, digest, precision):
            progress("writing the graph", 1, 4)
            report = _write(path, stage, precision, options.target, digest)
            progress("verifying", 2, 4)
            from gpt2fast.export.verify import verify

            llm = LLM(path, device="cpu", num_threads=options.num_threads)
            certificate = verify(stage, llm, precision)
        report["certificate"] = certificate.as_dict()
        write_json(stage / REPORT, report)
        progress("done", 4, 4)
    return report


@contextmanager
def _source(
    model: str | os.PathLike[str], stage: Path, options: ExportOptions
) -> Iterator[tuple[Path, str, str]]:
    """The directory whose weights go into the graph, the hash of the original's, the precision."""
    with open_checkpoint(model, revision=options.revision) as checkpoint:
        stored, path = checkpoint.quantization, checkpoint.path
        digest = _digest(checkpoint)
    precision = options.precision
    if stored is not None:
        kind = "int4" if stored.blocks.name in ("int3", "int4") else "int8"
        if precision not in ("auto", kind):
            raise OptionError(
                f"precision = {precision!r}, but {path} is stored in {stored.name}; leave it out, "
                "or give the float checkpoint"
            )
        yield path, digest, kind
    elif precision in ("int8", "int4"):
        with tempfile.TemporaryDirectory(dir=stage.parent, prefix=".rounded-") as folder:
            rounded = Path(folder) / "model"
            llm = LLM(path, device="cpu", quantization=precision, num_threads=options.num_threads)
            llm.save_quantized(rounded)
            del llm
            yield rounded, digest, precision
    else:
        yield path, digest, "fp32" if precision == "auto" else precision


def _write(path: Path, stage: Path, precision: str, target: str, digest: str) -> dict[str, Any]:
    """The graph and the files beside it; what the report says of them."""
    import onnx_ir

    from gpt2fast.export.decoder import build

    facts = {
        "gpt2fast": metadata.version("gpt2fast"),
        "source_sha256": digest,
        "precision": precision,
        "target": target,
    }
    with open_checkpoint(path) as checkpoint:
        graph = build(checkpoint, target, precision, facts)
        onnx_ir.save(graph, stage / GRAPH, external_data=f"{GRAPH}.data")
        small = [path / name for name in SMALL_FILES if name != _CONFIG]
        for file in small:
            if file.is_file():
                shutil.copyfile(file, stage / file.name)
        parameters = checkpoint.num_parameters
    fields = read_json_object(path / _CONFIG)
    fields.pop(QUANTIZATION_FIELD, None)  # of the checkpoint's files, which are not here
    write_json(stage / _CONFIG, fields)
    sizes = {file.name: file.stat().st_size for file in sorted(stage.glob(f"{GRAPH}*"))}
    return {"export": {**graph.metadata_props, "parameters": parameters, "bytes": sizes}}


def _digest(checkpoint: Checkpoint) -> str:
    """SHA-256 of the files of weights, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(checkpoint.files):
        with file.open("rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()
