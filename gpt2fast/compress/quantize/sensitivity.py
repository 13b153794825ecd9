"""What rounding each matrix alone costs: the rise of the model's loss, one matrix at a time.

The loss is KL(float model || model with one matrix rounded) over the next token. Near the float
model it is a sum of squares, so that what single matrices cost adds up to about what all of them
cost together; cross entropy's first-order part, which has either sign, is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2fast.compress.calibration.calibration import Calibration
from gpt2fast.compress.quantize.activations import rounded_activations
from gpt2fast.compress.quantize.clip import round_clipped
from gpt2fast.compress.state.journal import NOTHING_KEPT, TensorJournal
from gpt2fast.compress.state.model import Model
from gpt2fast.errors import OptionError
from gpt2fast.quantization import EMBEDDING, HEAD, MatrixFormat

Sensitivities = dict[str, dict[MatrixFormat, float]]  # nats a token, by canonical matrix name
MAX_TOKENS = 1024  # what a mean needs: costs of matrices differ by factors


@torch.no_grad()
def sensitivities(
    model: Model,
    calibration: Calibration,
    formats: Sequence[MatrixFormat],
    activations: bool = True,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    journal: TensorJournal = NOTHING_KEPT,
) -> Sensitivities:
    """Mean KL in nats a token for each matrix in each of the ``formats`` (0 in float32), all others
    left float, over the first ``MAX_TOKENS`` tokens of the calibration text.

    Scales are clipped for the least error of the weights. With ``activations``, inputs of the
    matrix are rounded to 8 bits as the C++ runner does. ``journal`` keeps each matrix. The model is
    left as it was; it must not be quantized yet, else OptionError is raised.
    """
    if model.matrices:
        raise OptionError("sensitivities are those of a float model; this one is quantized")
    probe, names, found = _Probe(model, calibration), model.matrix_names(), Sensitivities()
    for number, name in enumerate(names, 1):
        if (done := journal.recall(f"loss-{name}")) is None:
            weight, losses = model.weight(name).contiguous().clone(), {}
            for form in (form for form in formats if form.is_integer):
                with _rounded(model, name, weight, form, activations):
                    losses[form.label] = probe.divergence(name)
            done = {}, losses
            journal.keep(f"loss-{name}", *done)
        found[name] = {form: done[1].get(form.label, 0.0) for form in formats}
        progress(name, number, len(names))
    return found


@contextmanager
def _rounded(
    model: Model, name: str, weight: Tensor, form: MatrixFormat, activations: bool
) -> Iterator[None]:
    model.set_quantized(name, round_clipped(weight, form))
    try:
        with rounded_activations(model) if activations else nullcontext():
            yield
    finally:
        model.set_weight(name, weight)


class _Probe:
    """The float model's log-probabilities, and its hidden states before each block."""

    def __init__(self, model: Model, calibration: Calibration) -> None:
        length = calibration.windows.shape[1]
        count = max(1, MAX_TOKENS // length)
        self.network = model.network
        self.tokens = torch.from_numpy(calibration.windows[:count])
        self.states = [self._embedded()]
        for block in self.network.h:
            self.states.append(block(self.states[-1]))
        self.expected = self._log_probabilities(self.states[-1])

    def divergence(self, name: str) -> float:
        """Mean KL in nats of the network as it is now, ``name`` alone being changed."""
        if name == EMBEDDING:
            first, x = 0, self._embedded()
        elif name == HEAD:
            first, x = len(self.network.h), self.states[-1]
        else:
            first = int(name.split(".")[1])
            x = self.states[first]
        for layer in range(first, len(self.network.h)):
            x = self.network.h[layer](x)
        found = self._log_probabilities(x)
        sums = F.kl_div(found, self.expected, log_target=True, reduction="none").sum(-1)
        return max(0.0, float(sums.mean(dtype=torch.float64)))

    def _embedded(self) -> Tensor:
        positions = torch.arange(self.tokens.shape[1])
        return torch.add(self.network.wte(self.tokens), self.network.wpe(positions))

    def _log_probabilities(self, x: Tensor) -> Tensor:
        logits = F.linear(self.network.ln_f(x), self.network.head_weight)
        return F.log_softmax(logits, dim=-1)
