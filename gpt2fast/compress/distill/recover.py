"""Recovery inside a process: a network that was pruned or quantized learns from the one before, on
the loop of the trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gpt2fast.compress.distill import fingerprint
from gpt2fast.compress.distill.constraints import Constrained, Constraint, KeepZeros, on_grids
from gpt2fast.compress.distill.logit_cache import CacheKey, LogitCache
from gpt2fast.compress.distill.objective import Distillation, check_context
from gpt2fast.compress.distill.options import LossOptions, RecoverOptions
from gpt2fast.compress.distill.student import evenly_spaced
from gpt2fast.compress.state.model import CONV1D_PARTS, Model, frozen
from gpt2fast.errors import OptionError
from gpt2fast.files.atomic import clear_all_abandoned
from gpt2fast.files.disk import clear_write_errors, make_directory
from gpt2fast.files.json_file import write_json
from gpt2fast.model.gpt2 import GPT2
from gpt2fast.train.accelerator import make_accelerator
from gpt2fast.train.checkpointing import CHECKPOINTS, latest_checkpoint
from gpt2fast.train.data import FixedWindows
from gpt2fast.train.loop import Progress, Trainer
from gpt2fast.train.memory import clear_memory_errors

if TYPE_CHECKING:
    from accelerate import Accelerator

_PRUNED = 0.02  # share of zeros in a matrix above which they are no chance, but a pruning before


def recover_model(
    model: Model,
    teacher: GPT2,
    windows: NDArray[np.int64],
    work: Path,
    options: RecoverOptions,
    progress: Progress | None = None,
) -> None:
    """Recover ``model`` in place as ``recover`` does: what is quantized stays on its grids, what
    was pruned weight by weight stays zero unless ``options`` say otherwise. Adds to its history."""
    grids = on_grids(model.matrices)
    pruned = any(entry.get("pass") in ("prune_weights", "prune-weights") for entry in model.history)
    least = 0.0 if pruned else _PRUNED
    zeros = pruned_weights(model.network, least) if options.keep_zeros else {}
    constraints: dict[str, Constraint] = {**zeros, **grids}
    layers = kept_layers(model.history, teacher.config.n_layer)
    facts = recover(model.network, teacher, windows, work, options, constraints, progress, layers)
    for name, grid in grids.items():
        model.set_quantized(name, grid.matrix(model.network.get_parameter(name)))
    model.history.append({"pass": "recover", **facts})


def kept_layers(history: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """Which of ``count`` layers are left after the removals in a model's ``history``, each of which
    counts the layers that there were at its time."""
    kept = list(range(count))
    for entry in history:
        if entry.get("pass") in ("prune_layers", "prune-layers"):
            kept = [layer for i, layer in enumerate(kept) if i not in entry["removed"]]
    return kept


def recover(
    network: GPT2,
    teacher: GPT2,
    windows: NDArray[np.int64],
    work: Path,
    options: RecoverOptions,
    constraints: Mapping[str, Constraint] | None = None,
    progress: Progress | None = None,
    layers: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Train ``network`` in place to predict as ``teacher`` does on ``windows`` (N, T + 1), under
    ``constraints`` by the name of their parameter. Returns what was done, as JSON.

    ``layers``: the teacher's layers that hidden states are compared with, one for each layer of
    ``network``; evenly spaced ones if not given.

    Checkpoints are kept in ``work``; the same call goes on from the last one, bit for bit. Raises
    OptionError if ``work`` is of another recovery, if the loss is not finite, if the disk is full.
    """
    out = Path(work)
    options = replace(options, out=str(out))
    accelerator = make_accelerator(options)
    check_context(teacher.config, windows.shape[1] - 1)
    model = Constrained(network, constraints) if constraints else network
    home = network.wte.weight.device
    with clear_write_errors(out), clear_memory_errors():
        make_directory(options.out, out, "work in")
        clear_all_abandoned(out / CHECKPOINTS)
        _claim(out, options, network, teacher, windows, constraints or {})
        torch.manual_seed(options.seed)
        try:
            if layers is None:
                layers = evenly_spaced(teacher.config.n_layer, network.config.n_layer)
            cache = sampled(options, teacher, windows, accelerator)
            objective = Distillation(options, teacher, network, layers, cache)
            return _train(accelerator, options, model, network, windows, objective, progress)
        finally:
            accelerator.free_memory()
            frozen(network).to(home)
            teacher.to(home)
            for constraint in (constraints or {}).values():
                constraint.to(home)


def _train(
    accelerator: Accelerator,
    options: RecoverOptions,
    model: nn.Module,
    network: GPT2,
    windows: NDArray[np.int64],
    objective: Distillation,
    progress: Progress | None,
) -> dict[str, Any]:
    network.requires_grad_(True)
    for constraint in model.constraints.values() if isinstance(model, Constrained) else ():
        constraint.to(accelerator.device)
    sampler = FixedWindows(windows, options.seed)
    trainer = Trainer(options, accelerator, model, sampler, objective, progress=progress)
    done = trainer.run()
    # Mixed precision has put itself around forward().
    accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    if isinstance(model, Constrained):
        model.apply_constraints()
    losses = [r["loss"] for r in trainer.metrics.read() if "loss" in r] if trainer.metrics else []
    return {
        "steps": done,
        "tokens": done * trainer.tokens_per_step,
        "loss": options.loss,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
    }


def sampled(
    options: LossOptions, teacher: GPT2, windows: NDArray[np.int64], accelerator: Accelerator
) -> LogitCache | None:
    """The tokens drawn from ``teacher`` that ``options`` ask for, made or found on the disk."""
    if options.samples is None:
        return None
    directory = Path(options.cache or Path(options.out) / "cache")
    key = CacheKey.of(teacher, windows, options.samples, options.temperature, options.seed)
    share = accelerator.process_index, accelerator.num_processes
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            LogitCache.claim(directory, key)
    cache = LogitCache.make(directory, key, teacher, windows, accelerator.device, share)
    accelerator.wait_for_everyone()
    return cache


def pruned_weights(network: GPT2, least: float = _PRUNED) -> dict[str, KeepZeros]:
    """Constraints for the matrices of the blocks more than ``least`` of which are zeros."""
    found = {}
    for layer in range(network.config.n_layer):
        for part in CONV1D_PARTS:
            name = f"h.{layer}.{part}.weight"
            weight = network.get_parameter(name)
            if float((weight == 0).float().mean()) > least:
                found[name] = KeepZeros(weight)
    return found


def _claim(
    out: Path,
    options: RecoverOptions,
    network: GPT2,
    teacher: GPT2,
    windows: NDArray[np.int64],
    constraints: Mapping[str, Constraint],
) -> None:
    """Write what ``out`` is of, or check that it is that already."""
    bounds = {f"{n} {k}": t for n, c in constraints.items() for k, t in c.tensors().items()}
    facts = {
        "options": {k: v for k, v in asdict(options).items() if k not in options.free_on_resume},
        "network": fingerprint.of_network(network),
        "teacher": fingerprint.of_network(teacher),
        "windows": fingerprint.of_arrays({"windows": windows}),
        "constraints": fingerprint.of_tensors(bounds),
    }
    record = out / "recover.json"
    if latest_checkpoint(out / CHECKPOINTS) is not None:
        recorded = json.loads(record.read_text(encoding="utf-8"))
        differing = [name for name, fact in facts.items() if recorded.get(name) != fact]
        if differing:
            raise OptionError(
                f"{out} holds the checkpoints of another recovery ({', '.join(differing)} differ); "
                "delete it, or give another directory"
            )
        return
    write_json(record, facts)
