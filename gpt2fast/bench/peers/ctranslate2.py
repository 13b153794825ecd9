"""CTranslate2: its converter's GPT-2 loader, and ``Generator.generate_batch`` with a callback."""

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
    hugging_face_model,
    installed,
    refuse,
    refuse_layers,
)
from gpt2fast.files.json_file import read_json_object, write_json

_QUANTIZATION = {"float32": None, "int8": "int8_float32"}
_NOTES = "gpt2fast-bench.json"


class CTranslate2:
    """int8 is "int8_float32": matrices in 8 bits, activations quantized as they come."""

    FORMATS: ClassVar[tuple[str, ...]] = ("float32", "int8")

    def __init__(self, work: Path) -> None:
        self._work = work
        self._api: Any = import_module("ctranslate2")
        self._generator: Any = None
        self._notes: dict[str, int] = {}

    def versions(self) -> dict[str, str]:
        return installed("ctranslate2", "transformers", "torch")

    def convert(self, checkpoint: Path, fmt: str) -> Path:
        check_format("ctranslate2", fmt, self.FORMATS)
        refuse_layers("ctranslate2", checkpoint)

        def make(path: Path) -> None:
            loaders = import_module("ctranslate2.converters.transformers")
            model = hugging_face_model(checkpoint)
            spec = loaders.GPT2Loader().get_model_spec(model)
            # The converter wants a tokenizer; here the tokens are their own numbers.
            vocabulary = [str(i) for i in range(model.config.vocab_size)]
            spec.register_vocabulary(vocabulary)
            spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = vocabulary[-1]
            spec.config.layer_norm_epsilon = model.config.layer_norm_epsilon
            spec.validate()
            spec.optimize(quantization=_QUANTIZATION[fmt])
            path.mkdir()
            spec.save(str(path))
            config = model.config
            notes = {"weights": _bytes_read(spec), "kv": 2 * 4 * config.n_layer * config.n_embd}
            write_json(path / _NOTES, notes)

        return cached(self._work, checkpoint, f"ctranslate2-{fmt}", self.versions(), make)

    def load(
        self, artifact: Path, fmt: str, threads: int, context: int, batch: int, **options: str
    ) -> None:
        refuse("ctranslate2", options)
        self._notes = read_json_object(artifact / _NOTES)
        self._generator = self._api.Generator(
            str(artifact),
            device="cpu",
            compute_type=_QUANTIZATION[fmt] or "float32",
            inter_threads=1,
            intra_threads=threads,
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, clock: Clock
    ) -> Generated:
        times = [0.0] * new_tokens

        def note(result: Any) -> bool:
            times[result.step] = clock()  # the last sequence of a step decides
            return False

        results = self._generator.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts],
            beam_size=1,
            sampling_topk=1,
            max_length=new_tokens,
            include_prompt_in_result=False,
            end_token=[],  # none: the model's own would end a sequence
            callback=note,
        )
        return [list(result.sequences_ids[0]) for result in results], times

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        ids = self._api.StorageView.from_array(np.array([tokens], np.int32))
        lengths = self._api.StorageView.from_array(np.array([len(tokens)], np.int32))
        output = self._generator.forward_batch(ids, lengths)
        rows: NDArray[np.float32] = np.array(output, np.float32)[0]
        return rows

    def weight_bytes(self) -> int | None:
        return self._notes["weights"]

    def kv_bytes_per_token(self) -> int | None:
        return self._notes["kv"]

    def close(self) -> None:
        if self._generator is not None:
            self._generator.unload_model()
        self._generator = None


def _bytes_read(spec: Any) -> int:
    """Bytes of the variables of a model that a step reads in full; an alias is a string."""
    variables = dict(spec.variables(ordered=True))
    aliased = {value for value in variables.values() if isinstance(value, str)}
    total = 0
    for name, value in variables.items():
        is_table = "embeddings" in name or "position_encodings" in name
        if isinstance(value, str) or (is_table and name not in aliased):
            continue
        array = value.numpy()
        total += int(array.nbytes)
    return total
