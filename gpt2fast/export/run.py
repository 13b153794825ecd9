"""From a checkpoint to a verified directory with ``model.onnx``, whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.checkpoint.checkpoint import QUANTIZATION_FIELD
from gpt2fast.checkpoint.names import num_parameters
from gpt2fast.checkpoint.resolve import SMALL_FILES
from gpt2fast.checkpoint.weight_files import GRAPH
from gpt2fast.errors import MissingDependencyError, OptionError, show
from gpt2fast.export.genai import NAME, genai_config
from gpt2fast.files.atomic import check_out, staged_directory
from gpt2fast.files.json_file import read_json_object, write_json

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig
    from gpt2fast.export.source import Source
    from gpt2fast.export.verify import Certificate

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "int4")
TARGETS = ("ort", "portable")
REPORT = "report.json"
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_NEEDED = ("onnx_ir", "onnx", "onnxruntime")
Progress = Callable[[str, int, int], None]  # what is done, steps done, steps there are


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported. Raises OptionError for a precision that is not known.

    ``precision``: of the weights; "auto" is fp32, or the integers that the checkpoint is stored in.
    Embedding and head are int8 under "int4" and "int8"; "bf16" computes in float32. ``target``:
    "ort" has operators of onnxruntime's own, "portable" standard ones alone.
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
    from gpt2fast.export.source import open_source
    from gpt2fast.export.verify import verify

    check_out(target)
    progress("reading", 0, 4)
    with (
        open_source(
            model,
            options.precision,
            num_threads=options.num_threads,
            revision=options.revision,
        ) as source,
        staged_directory(target) as stage,
    ):
        progress("writing the graph", 1, 4)
        facts = _write(source, stage, options.target)
        progress("verifying", 2, 4)
        certificate = verify(stage, source, options.num_threads)
        _certify(stage / GRAPH, certificate)
        sizes = {file.name: file.stat().st_size for file in sorted(stage.glob(f"{GRAPH}*"))}
        report = {"export": {**facts, "bytes": sizes}, "certificate": certificate.as_dict()}
        write_json(stage / REPORT, report)
        progress("done", 4, 4)
    return report


def _write(source: Source, stage: Path, target: str) -> dict[str, Any]:
    """The graph and the files beside it; what the report says of them."""
    import onnx_ir

    from gpt2fast.export.decoder import build

    facts = {
        "gpt2fast": metadata.version("gpt2fast"),
        "source_sha256": source.digest,
        "precision": source.precision,
        "target": target,
    }
    path, weights = source.path, source.weights
    with closing(weights):
        graph = build(weights, target, source.precision, facts)
        onnx_ir.save(graph, stage / GRAPH, external_data=f"{GRAPH}.data")
    for file in (path / name for name in SMALL_FILES if name != _CONFIG):
        if file.is_file():
            shutil.copyfile(file, stage / file.name)
    _describe(weights.config, path, stage, graph.metadata_props["cache"] == "shared")
    return {**graph.metadata_props, "parameters": num_parameters(weights.shapes)}


def _describe(config: ModelConfig, path: Path, stage: Path, shares_cache: bool) -> None:
    """The files by which other programs know the model."""
    fields = read_json_object(path / _CONFIG)
    fields["tie_word_embeddings"] = config.tie_word_embeddings  # what the weights say
    fields.pop(QUANTIZATION_FIELD, None)  # of the checkpoint's files, which are not here
    write_json(stage / _CONFIG, fields)
    if not (stage / _GENERATION).exists():
        ends = ("bos_token_id", "eos_token_id")
        known = {name: value for name, value in config.to_dict().items() if name in ends}
        write_json(stage / _GENERATION, {"_from_model_config": True, **known})
    if (genai := genai_config(config, shares_cache=shares_cache)) is not None:
        write_json(stage / NAME, genai)


def _certify(graph: Path, certificate: Certificate) -> None:
    """Write what was proven into the metadata of the graph, whose weights are in another file."""
    import onnx

    loaded = onnx.load(str(graph), load_external_data=False)
    for name in ("runtime", "perplexity", "source_perplexity", "agreement"):
        value = str(getattr(certificate, name))
        loaded.metadata_props.add(key=f"verified_{name}", value=value)
    graph.write_bytes(loaded.SerializeToString())
