"""The trained model as a Hugging Face directory that transformers and gpt2fast load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt2fast.checkpoint.names import stored_name
from gpt2fast.config import ModelConfig
from gpt2fast.files.atomic import staged_file
from gpt2fast.files.json_file import write_json
from gpt2fast.train.prepare import PreparedRun
from gpt2fast.train.run_options import TextOptions
from gpt2fast.train.tokenizer import END_OF_TEXT, copy_tokenizer, write_tokenizer


def save_model(
    state: Mapping[str, Tensor],
    run: PreparedRun,
    options: TextOptions,
    tokenizer_source: Path | None,
) -> None:
    """Write weights in ``options.dtype``, configuration and tokenizer to ``options.out``. Each file
    appears whole, by a rename. The tokenizer's files are copied from ``tokenizer_source``, or
    written where it was trained by this run."""
    directory = Path(options.out)
    _write_weights(state, getattr(torch, options.dtype), directory / "model.safetensors")
    if tokenizer_source is not None:
        copy_tokenizer(tokenizer_source, directory)
    else:
        end = END_OF_TEXT if run.end_of_text is not None else None
        write_tokenizer(run.tokenizer, directory, run.config.n_positions, end)
    write_json(directory / "config.json", config_json(run.config, options.dropout, options.dtype))
    write_json(directory / "generation_config.json", _generation_config(run.config))


def _write_weights(state: Mapping[str, Tensor], dtype: torch.dtype, path: Path) -> None:
    tensors = {
        stored_name(name): tensor.detach().to("cpu", dtype).contiguous()
        for name, tensor in state.items()
    }
    with staged_file(path) as stage:
        save_file(tensors, str(stage), metadata={"format": "pt"})


def config_json(config: ModelConfig, dropout: float, dtype: str) -> dict[str, Any]:
    """``config.json``: the shape, and what training adds to it in the names of transformers."""
    return {
        **config.to_dict(),
        "attn_pdrop": dropout,
        "embd_pdrop": dropout,
        "resid_pdrop": dropout,
        "torch_dtype": dtype,
    }


def _generation_config(config: ModelConfig) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    fields = config.to_dict()
    return {name: fields[name] for name in names if fields[name] is not None}
