"""The training loop, on ``accelerate``: one process on a CPU or GPU, or many under
``accelerate launch``."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt2fast.model.gpt2 import GPT2
from gpt2fast.train.accelerator import make_accelerator
from gpt2fast.train.checkpointing import (
    CHECKPOINTS,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from gpt2fast.train.data import WindowSampler
from gpt2fast.train.disk import check_disk, clear_disk_errors
from gpt2fast.train.divergence import diverged, is_diverged
from gpt2fast.train.evaluation import HeldOut, evaluate
from gpt2fast.train.export import export_model
from gpt2fast.train.interrupt import TrainingInterrupted, deferred_interrupt
from gpt2fast.train.memory import clear_memory_errors
from gpt2fast.train.metrics import MetricsLog
from gpt2fast.train.options import TrainOptions
from gpt2fast.train.plot import plot_losses
from gpt2fast.train.prepare import PreparedRun, check_context, load_prepared, prepare
from gpt2fast.train.record import training_record
from gpt2fast.train.schedule import learning_rate, make_optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(options: TrainOptions) -> dict[str, Any]:
    """Train as ``options`` say, write the model to ``options.out``, return ``training.json``.

    Raises OptionError for what the user can put right: options, text, a full disk.
    """
    accelerator = make_accelerator(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        # tokenizers has a pool of its own, which takes its size from here when it is first used.
        pool = min(options.threads, os.cpu_count() or 1)
        os.environ.setdefault("RAYON_NUM_THREADS", str(pool))
    with clear_disk_errors(options.out), clear_memory_errors():
        with accelerator.main_process_first():
            if accelerator.is_main_process:
                prepare(options, accelerator.device.type == "cpu")
        return Trainer(options, accelerator, load_prepared(options)).run()


class Trainer:
    """Model, optimizer and data of one run, and the steps it takes."""

    def __init__(self, options: TrainOptions, accelerator: Accelerator, run: PreparedRun) -> None:
        self.options, self.accelerator, self.run_data = options, accelerator, run
        self.context = check_context(options, run.config)
        check_disk(options.out, run.config.num_parameters, options.keep)
        self.sampler = WindowSampler(run.train_tokens, self.context, options.seed)
        torch.manual_seed(options.seed)
        model = _make_model(options, run)
        model.to(accelerator.device)
        optimizer = make_optimizer(model, options, accelerator.device)
        self.model: nn.Module
        self.optimizer: Any
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        torch.manual_seed(options.seed + 1 + accelerator.process_index)  # dropout
        self.directory = Path(options.out)
        self.checkpoints = self.directory / CHECKPOINTS
        latest = latest_checkpoint(self.checkpoints) if options.resume else None
        self.first_step = load_checkpoint(accelerator, latest) if latest else 0
        self.metrics: MetricsLog | None = None
        if accelerator.is_main_process:
            self.metrics = MetricsLog(self.directory / "metrics.jsonl", self.first_step)

    def run(self) -> dict[str, Any]:
        """All steps, then evaluation on the whole held-out text and export."""
        last = min(self.options.steps, self.options.stop_at or self.options.steps)
        done = self._steps(last)
        held_out = self._evaluate(done, None)
        if self.metrics and held_out and done > self.first_step:
            self.metrics.write(done, held_out_loss=held_out.nats_per_token)
        return self._finish(done, held_out)

    def _steps(self, last: int) -> int:
        options, step = self.options, self.first_step
        self.model.train()
        loss_sum = torch.zeros((), device=self.accelerator.device)
        started, since = time.perf_counter(), step
        with self._progress(last) as bar, deferred_interrupt() as interrupted:
            while step < last:
                mean, norm = self._step(step)
                step += 1
                loss_sum += mean
                stop = self._check_step(step, mean, norm, interrupted())
                bar.update(1)
                if step % options.log_every == 0 or step == last:
                    loss = self._mean(loss_sum) / (step - since)
                    elapsed = time.perf_counter() - started
                    rate = (step - since) * self._tokens_per_step / elapsed
                    self._log(step, loss, rate)
                    bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tok/s")
                    loss_sum.zero_()
                    started, since = time.perf_counter(), step
                if step % options.save_every == 0 or step == last or stop:
                    self._save(step)
                if stop:
                    raise TrainingInterrupted(
                        f"interrupted; step {step} is saved in {self.checkpoints}. Repeat the "
                        "command with --resume to go on"
                    )
                if step % options.eval_every == 0 and step < last:
                    self._evaluate_and_plot(step)
        return step

    def _step(self, step: int) -> tuple[Tensor, Tensor]:
        """One optimizer step over ``grad_accum`` micro-batches; its mean loss, nats/token, and the
        norm of its gradient before clipping."""
        options, accelerator = self.options, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        total = torch.zeros((), device=accelerator.device)
        norm: Tensor | None = None
        for micro in range(options.grad_accum):
            rows = self._micro_batch(step * options.grad_accum + micro)
            with accelerator.accumulate(self.model):
                logits = self.model(rows[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    # An infinite bound measures and leaves each gradient as it is.
                    bound = options.clip or math.inf
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), bound)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach() / options.grad_accum
        return total, torch.zeros_like(total) if norm is None else norm.detach()

    def _check_step(self, step: int, loss: Tensor, norm: Tensor, interrupted: bool) -> bool:
        """Raise OptionError on every process if one's loss or gradient is not finite; return
        whether one was interrupted."""
        # The gradient scale of fp16 is found by overflowing: such a step is skipped by design.
        overflow = ~norm.isfinite() if self.options.precision != "fp16" else torch.zeros_like(loss)
        signs = torch.stack([~loss.isfinite(), overflow.to(loss.device)]).float()
        signs = torch.cat([signs, signs.new_tensor([float(interrupted)])])
        bad_loss, bad_norm, stop = self.accelerator.reduce(signs, "sum").tolist()
        if bad_loss or bad_norm:
            raise diverged(self.options, "loss" if bad_loss else "gradient norm", step)
        return bool(stop)

    def _save(self, step: int) -> None:
        """Save a checkpoint, but only of weights that still give a finite loss: the last update may
        have spoiled them after the loss was taken."""
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            rows = self._micro_batch(step * self.options.grad_accum)
            logits = self.model(rows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
        self.model.train(was_training)
        if is_diverged(self._mean(loss)):
            raise diverged(self.options, "loss", step)
        save_checkpoint(self.accelerator, self.checkpoints, step, self.options.keep)

    def _micro_batch(self, micro: int) -> Tensor:
        """Token ids (B, context + 1) of this process in micro-batch ``micro`` of the run."""
        index = micro * self.accelerator.num_processes + self.accelerator.process_index
        rows = self.sampler.batch(index * self.options.batch_size, self.options.batch_size)
        return torch.from_numpy(rows).to(self.accelerator.device)

    @property
    def _tokens_per_step(self) -> int:
        sequences = self.options.batch_size * self.options.grad_accum
        return int(sequences * self.accelerator.num_processes * self.context)

    def _mean(self, value: Tensor) -> float:
        return float(self.accelerator.reduce(value.clone(), "mean").item())

    def _log(self, step: int, loss: float, rate: float) -> None:
        if self.metrics:
            lr = learning_rate(step - 1, self.options)
            self.metrics.write(step, loss=loss, lr=lr, tokens_per_second=round(rate))

    def _evaluate(self, step: int, max_tokens: int | None) -> HeldOut | None:
        tokens = self.run_data.held_out_tokens
        if len(tokens) < 2:
            return None
        held_out = evaluate(
            self.accelerator,
            self.model,
            tokens,
            self.run_data.held_out_bytes,
            self.context,
            self.options.batch_size,
            max_tokens,
        )
        if is_diverged(held_out.nats_per_token):
            raise diverged(self.options, "held-out loss", step)
        return held_out

    def _evaluate_and_plot(self, step: int) -> None:
        held_out = self._evaluate(step, self.options.eval_tokens)
        if self.metrics:
            if held_out:
                self.metrics.write(step, held_out_loss=held_out.nats_per_token)
            plot_losses(self.metrics.read(), self.directory / "loss_curve.png")

    def _finish(self, done: int, held_out: HeldOut | None) -> dict[str, Any]:
        state = self.accelerator.get_state_dict(self.model)
        record = training_record(
            self.options,
            self.run_data,
            done,
            done * self._tokens_per_step,
            self.run_data.config.num_parameters,
            held_out,
        )
        if self.metrics:
            export_model(state, self.run_data, self.options, record)
            plot_losses(self.metrics.read(), self.directory / "loss_curve.png")
        self.accelerator.wait_for_everyone()
        return record

    def _progress(self, last: int) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=last,
            initial=min(self.first_step, last),
            desc="train",
            unit="step",
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        )


def _make_model(options: TrainOptions, run: PreparedRun) -> GPT2:
    if options.init is None:
        return GPT2(run.config, options.dropout)
    from gpt2fast.checkpoint import open_checkpoint
    from gpt2fast.model.weights import load_weights

    model = GPT2(run.config, options.dropout)
    load_weights(model, open_checkpoint(options.init))
    return model
