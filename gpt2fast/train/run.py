"""A whole run of a task: prepared, trained, evaluated on all held-out text, written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gpt2fast.train.accelerator import make_accelerator
from gpt2fast.train.disk import clear_disk_errors
from gpt2fast.train.export import export_model
from gpt2fast.train.loop import HeldOutText, Trainer
from gpt2fast.train.memory import clear_memory_errors
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.plot import plot_losses
from gpt2fast.train.prepare import PreparedRun, check_context, load_prepared, prepare
from gpt2fast.train.record import training_record
from gpt2fast.train.task import Task
from gpt2fast.train.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(options: TrainOptions) -> dict[str, Any]:
    """Train as ``options`` say, write the model to ``options.out``, return ``training.json``.

    Raises OptionError for what the user can put right: options, text, a full disk.
    """
    return run_task(Training(options))


def run_task(task: Task) -> dict[str, Any]:
    """Run ``task`` on this process's accelerator, write the model, return ``training.json``."""
    options = task.options
    accelerator = make_accelerator(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        # tokenizers has a pool of its own, which takes its size from here when it is first used.
        pool = min(options.threads, os.cpu_count() or 1)
        os.environ.setdefault("RAYON_NUM_THREADS", str(pool))
    with clear_disk_errors(options.out), clear_memory_errors():
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                prepare(task, accelerator.device.type == "cpu")
        return _run(task, accelerator, load_prepared(task))


def _run(task: Task, accelerator: Accelerator, run: PreparedRun) -> dict[str, Any]:
    options = task.options
    sampler = task.sampler(run.train_tokens, check_context(options.context, run.config))
    torch.manual_seed(options.seed)
    network = task.network(run.config)
    trainer = Trainer(
        options,
        accelerator,
        network,
        sampler,
        task.objective(network, sampler, accelerator),
        HeldOutText(run.held_out_tokens, run.held_out_bytes),
    )
    done = trainer.run()
    held_out = trainer.evaluate(done, None)
    if trainer.metrics and held_out and done > trainer.first_step:
        trainer.metrics.write(done, held_out_loss=held_out.nats_per_token)
    state = accelerator.get_state_dict(trainer.model)
    tokens_seen = done * trainer.tokens_per_step
    record = training_record(options, run, done, tokens_seen, run.config.num_parameters, held_out)
    record.update(task.facts())
    if trainer.metrics:
        export_model(state, run, options, task.tokenizer_source(), record)
        plot_losses(trainer.metrics.read(), Path(options.out) / "loss_curve.png")
    accelerator.wait_for_everyone()
    return record
