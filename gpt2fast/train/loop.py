"""The training loop, on ``accelerate``: one process on a CPU or GPU, or many under
``accelerate launch``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt2fast.train.checkpointing import (
    CHECKPOINTS,
    check_room_for_run,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from gpt2fast.train.data import Batch, Sampler
from gpt2fast.train.divergence import diverged, is_diverged
from gpt2fast.train.evaluation import HeldOut, evaluate
from gpt2fast.train.interrupt import TrainingInterrupted, deferred_interrupt
from gpt2fast.train.memory import freed_memory_kept
from gpt2fast.train.metrics import MetricsLog
from gpt2fast.train.objective import Objective, next_token_loss
from gpt2fast.train.plot import plot_losses
from gpt2fast.train.run_options import LoopOptions
from gpt2fast.train.schedule import learning_rate, make_optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator

Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True, eq=False)
class HeldOutText:
    """Text that no step sees."""

    tokens: NDArray[np.int32]  # (M,)
    num_bytes: int  # UTF-8


class Trainer:
    """Model, optimizer and data of one run, and the steps it takes.

    ``progress`` is told of each step; without it, there is a bar.
    """

    def __init__(
        self,
        options: LoopOptions,
        accelerator: Accelerator,
        network: nn.Module,
        sampler: Sampler,
        objective: Objective,
        held_out: HeldOutText | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.options, self.accelerator, self.sampler = options, accelerator, sampler
        self.objective, self.held_out, self.progress = objective, held_out, progress
        check_room_for_run(options.out, sum(p.numel() for p in network.parameters()), options.keep)
        network.to(accelerator.device)
        objective.to(accelerator.device)
        trained = [network] if objective.learned is None else [network, objective.learned]
        optimizer = make_optimizer(trained, options, accelerator.device)
        self.model: nn.Module
        self.optimizer: Any
        self.model, *learned, self.optimizer = accelerator.prepare(*trained, optimizer)
        self.modules = [self.model, *learned]
        objective.learned = learned[0] if learned else None
        torch.manual_seed(options.seed + 1 + accelerator.process_index)  # dropout
        self.directory = Path(options.out)
        self.checkpoints = self.directory / CHECKPOINTS
        latest = latest_checkpoint(self.checkpoints)
        self.first_step = load_checkpoint(accelerator, latest) if latest else 0
        self.metrics: MetricsLog | None = None
        if accelerator.is_main_process:
            self.metrics = MetricsLog(self.directory / "metrics.jsonl", self.first_step)

    def run(self) -> int:
        """Take all steps that are left, up to ``stop_at`` if given; returns how many are done."""
        on_cpu = self.accelerator.device.type == "cpu"
        with freed_memory_kept() if on_cpu else nullcontext():
            return self._run()

    def _run(self) -> int:
        options, step = self.options, self.first_step
        last = min(options.steps, options.stop_at or options.steps)
        self.model.train()
        if 0 < step < last and step % options.eval_every == 0:
            self._evaluate_and_plot(step)  # which is done after a checkpoint, so perhaps was not
        window = _Window(step)
        with self._bar(last) as bar, deferred_interrupt() as interrupted:
            while step < last:
                mean, norm = self._step(step, window)
                step += 1
                stop = self._check_step(step, mean, norm, interrupted())
                bar.update(1)
                if self.progress:
                    self.progress(step, last)
                if step % options.log_every == 0 or step == last:
                    bar.set_postfix_str(self._log(step, window))
                    window = _Window(step)
                if step % options.save_every == 0 or step == last or stop:
                    self._save(step)
                if stop:
                    raise TrainingInterrupted(
                        f"interrupted; step {step} is saved in {self.checkpoints}. Repeat the "
                        "command to go on"
                    )
                if step % options.eval_every == 0 and step < last:
                    self._evaluate_and_plot(step)
        return step

    def _step(self, step: int, window: _Window) -> tuple[Tensor, Tensor]:
        """One optimizer step over ``grad_accum`` micro-batches; its mean loss and the norm of its
        gradient before clipping."""
        options, accelerator = self.options, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, options)
        total = torch.zeros((), device=accelerator.device)
        norm: Tensor | None = None
        for micro in range(options.grad_accum):
            batch = self._micro_batch(step * options.grad_accum + micro)
            with accelerator.accumulate(*self.modules):
                loss = self.objective(self.model, batch)
                accelerator.backward(loss.total)
                if accelerator.sync_gradients:
                    # An infinite bound measures and leaves each gradient as it is.
                    bound = options.clip or math.inf
                    norm = accelerator.clip_grad_norm_(self._parameters(), bound)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.total.detach() / options.grad_accum
            window.add_parts(loss.parts, options.grad_accum)
        window.add("loss", total)
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
            batch = self._micro_batch(step * self.options.grad_accum)
            loss = next_token_loss(self.model, batch.rows)
        self.model.train(was_training)
        if is_diverged(self._mean(loss)):
            raise diverged(self.options, "loss", step)
        save_checkpoint(self.accelerator, self.checkpoints, step, self.options.keep)

    def _micro_batch(self, micro: int) -> Batch:
        """What this process sees in micro-batch ``micro`` of the run."""
        index = micro * self.accelerator.num_processes + self.accelerator.process_index
        first, count = index * self.options.batch_size, self.options.batch_size
        rows = torch.from_numpy(self.sampler.batch(first, count)).to(self.accelerator.device)
        return Batch(rows, self.sampler.numbers(first, count))

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for module in self.modules for parameter in module.parameters()]

    @property
    def tokens_per_step(self) -> int:
        """Tokens predicted in a step, by all processes."""
        sequences = self.options.batch_size * self.options.grad_accum
        return int(sequences * self.accelerator.num_processes * self.sampler.context)

    def _mean(self, value: Tensor) -> float:
        return float(self.accelerator.reduce(value.clone(), "mean").item())

    def _log(self, step: int, window: _Window) -> str:
        """Write the means since the last record; returns them for the bar."""
        elapsed, steps = time.perf_counter() - window.started, step - window.first
        means = {name: self._mean(total) / steps for name, total in window.totals.items()}
        rate = steps * self.tokens_per_step / elapsed
        if self.metrics:
            lr = learning_rate(step - 1, self.options)
            self.metrics.write(step, **means, lr=lr, tokens_per_second=round(rate))
        return f"loss {means['loss']:.3f}, {rate:,.0f} tok/s"

    def evaluate(self, step: int, max_tokens: int | None = None) -> HeldOut | None:
        """Loss of the first ``max_tokens`` held-out tokens after ``step`` steps, or of all, which
        has a bar; None where nothing is held out. Raises OptionError if it is not finite."""
        if self.held_out is None or len(self.held_out.tokens) < 2:
            return None
        held_out = evaluate(
            self.accelerator,
            self.model,
            self.held_out.tokens,
            self.held_out.num_bytes,
            self.sampler.context,
            self.options.batch_size,
            max_tokens,
            self._batches if max_tokens is None else iter,
        )
        if is_diverged(held_out.nats_per_token):
            raise diverged(self.options, "held-out loss", step)
        return held_out

    def _evaluate_and_plot(self, step: int) -> None:
        held_out = self.evaluate(step, self.options.eval_tokens)
        if self.metrics:
            if held_out:
                self.metrics.write(step, held_out_loss=held_out.nats_per_token)
            plot_losses(self.metrics.read(), self.directory / "loss_curve.png")

    def _bar(self, last: int) -> Any:
        first, name = min(self.first_step, last), self.options.command_name
        return self._tqdm(total=last, initial=first, desc=name, unit="step")

    def _batches(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        yield from self._tqdm(batches, desc="held-out text", unit="batch")

    def _tqdm(self, *what: Any, **how: Any) -> Any:
        from tqdm import tqdm

        quiet = self.progress is not None or not self.accelerator.is_main_process
        return tqdm(*what, dynamic_ncols=True, disable=quiet, **how)


class _Window:
    """Sums over the steps since the last record."""

    def __init__(self, first: int) -> None:
        self.first, self.started = first, time.perf_counter()
        self.totals: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        self.totals[name] = self.totals[name] + value if name in self.totals else value

    def add_parts(self, parts: Mapping[str, Tensor], share: int) -> None:
        for name, value in parts.items():
            self.add(name, value.detach() / share)
