"""A graph of ``gpt2fast.export``, opened by onnxruntime on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2fast.config import ModelConfig
from gpt2fast.errors import CheckpointError, MissingDependencyError, OptionError

_ELEMENTS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session:
    """An open graph, and what it says of itself.

    Args:
        graph: the file of the graph.
        device: "cpu", "cuda" or "cuda:<index>".
        num_threads: of the CPU; None is onnxruntime's default.

    Raises MissingDependencyError without onnxruntime, OptionError for a device that it does not
    have, CheckpointError for a graph that it refuses or that another program wrote.
    """

    def __init__(self, graph: Path, device: str = "cpu", num_threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError(
                f"{graph} needs onnxruntime: pip install 'gpt2fast[onnx]'"
            ) from None
        self.api: Any = onnxruntime
        self.device, _, index = device.partition(":")
        self.device_index = _index(device, index)
        self.version = str(onnxruntime.__version__)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of the input that has a default
        # Decoding is one operator after another: other threads share in each of them.
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = num_threads or 0
        # The standard operators of 4-bit weights become the ones that multiply integers.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        try:
            self.run_on: Any = onnxruntime.InferenceSession(
                str(graph), options, providers=self._providers()
            )
        except OptionError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base
            text = " ".join(str(error).split())
            raise CheckpointError(
                f"{graph}: onnxruntime {self.version} refuses the graph: {text}"
            ) from None
        self.facts: dict[str, str] = self.run_on.get_modelmeta().custom_metadata_map
        if not {"cache", "bytes_per_step", "n_positions"} <= self.facts.keys():
            raise CheckpointError(
                f"{graph}: not written by gpt2fast export, or by an older version of it; export "
                "the checkpoint again"
            )
        types = {each.name: each.type for each in self.run_on.get_inputs()}
        self.element = _ELEMENTS[types["past_key_values.0.key"]]
        self._graph = graph

    @property
    def shares_cache(self) -> bool:
        """Whether the graph appends to a cache in place, instead of handing back a longer one."""
        return self.facts["cache"] == "shared"

    def check(self, config: ModelConfig) -> None:
        """Raises CheckpointError where ``config`` is of another model than the graph."""
        held = {each.name: each.shape for each in self.run_on.get_inputs()}
        found = [
            (held[name][1], held[name][3])
            for layer in range(len(held))
            if (name := f"past_key_values.{layer}.key") in held
        ]
        wanted = [(shape.n_head, config.head_size) for shape in config.layer_shapes]
        width = self.run_on.get_outputs()[0].shape[-1]
        if (found, width, self.facts["n_positions"]) != (
            wanted,
            config.vocab_size,
            str(config.n_positions),
        ):
            raise CheckpointError(
                f"{self._graph.parent / 'config.json'} is not of {self._graph.name}: heads and "
                f"their size in each layer {wanted}, vocabulary {config.vocab_size}, context "
                f"{config.n_positions}; the graph has {found}, {width}, "
                f"{self.facts['n_positions']}"
            )

    def _providers(self) -> list[Any]:
        provider = _PROVIDERS.get(self.device)
        if provider is None or provider not in self.api.get_available_providers():
            raise OptionError(
                f"device = {self.device!r} is not available for an ONNX export with onnxruntime "
                f"{self.version}; use 'cpu', or with onnxruntime-gpu 'cuda'"
            )
        options = {"device_id": self.device_index} if self.device == "cuda" else {}
        return [(provider, options)]


def _index(device: str, index: str) -> int:
    if index and (device != "cuda" or not index.isdecimal()):
        given = f"{device}:{index}"
        raise OptionError(f"device = {given!r} is not known; use 'cpu', 'cuda' or 'cuda:<index>'")
    return int(index or 0)
