"""A whole run of a task: prepared, trained, evaluated on all held-out text, written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gpt2fast.files.disk import clear_write_errors
from gpt2fast.files.json_file import write_json
from gpt2fast.train.accelerator import make_accelerator
from gpt2fast.train.finish import RECORD, finished_record
from gpt2fast.train.interrupt import TrainingInterrupted
from gpt2fast.train.loop import HeldOutText, Trainer
from gpt2fast.train.memory import clear_memory_errors
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.plot import plot_losses
from gpt2fast.train.prepare import PreparedRun, check_context, load_prepared, prepare
from gpt2fast.train.record import training_record
from gpt2fast.train.save import save_model
from gpt2fast.train.task import Task
from gpt2fast.train.training import Training

if TYPE_CHECKING:
    from accelerate import Accelerator


Say = Callable[[str], None]  # is told what goes on


def train(options: TrainOptions, say: Say = lambda line: None) -> dict[str, Any]:
    """Train as ``options`` say, write the model to ``options.out``, return ``training.json``.

    A run that was interrupted goes on where it stopped; one that is finished is left as it is.
    Raises OptionError for what the user can put right: options, text, a full disk.
    """
    return run_task(Training(options), say)


def run_task(task: Task, say: Say = lambda line: None) -> dict[str, Any]:
    """Run ``task`` on this process's accelerator, write the model, return ``training.json``."""
    options = task.options
    accelerator = make_accelerator(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        # tokenizers has a pool of its own, which takes its size from here when it is first used.
        pool = min(options.threads, os.cpu_count() or 1)
        os.environ.setdefault("RAYON_NUM_THREADS", str(pool))
    with clear_write_errors(Path(options.out)), clear_memory_errors(), ExitStack() as held:
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                prepare(task, accelerator.device.type == "cpu", held)
        if (record := finished_record(task)) is not None:
            say(f"{options.out} is finished already: nothing is left to do")
            return record
        return _run(task, accelerator, load_prepared(task), say)


def _run(task: Task, accelerator: Accelerator, run: PreparedRun, say: Say) -> dict[str, Any]:
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
    if trainer.first_step:
        say(f"{options.out}: going on after step {trainer.first_step}")
    done = trainer.run()
    state = accelerator.get_state_dict(trainer.model)
    if trainer.metrics:
        save_model(state, run, options, task.tokenizer_source())
    accelerator.wait_for_everyone()
    try:
        held_out = trainer.evaluate(done)
    except KeyboardInterrupt:
        raise TrainingInterrupted(
            f"interrupted; the model is in {options.out}, but its held-out loss is not known. "
            "Repeat the command to go on"
        ) from None
    tokens_seen = done * trainer.tokens_per_step
    record = training_record(options, run, done, tokens_seen, run.config.num_parameters, held_out)
    record.update(task.facts())
    if trainer.metrics:
        if held_out:
            trainer.metrics.write(done, held_out_loss=held_out.nats_per_token)
        plot_losses(trainer.metrics.read(), Path(options.out) / "loss_curve.png")
        write_json(Path(options.out) / RECORD, record)
    accelerator.wait_for_everyone()
    return record
