"""The passes that a recipe can name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gpt2fast.compress.distill.options import RecoverOptions
from gpt2fast.compress.distill.recover import recover_model
from gpt2fast.compress.prune.heads import HeadOptions, prune_heads
from gpt2fast.compress.prune.layers import LayerOptions, prune_layers
from gpt2fast.compress.prune.neurons import NeuronOptions, prune_neurons
from gpt2fast.compress.prune.unstructured import WeightOptions, prune_weights
from gpt2fast.compress.quantize import QuantizeOptions, quantize
from gpt2fast.compress.quantize.mixed import MixedOptions, mixed_formats
from gpt2fast.compress.recipe.pipeline import Context, Pass
from gpt2fast.compress.state.journal import TensorJournal
from gpt2fast.compress.state.model import Model, open_model
from gpt2fast.compress.state.snapshot import record_part, restore_parts
from gpt2fast.errors import OptionError
from gpt2fast.quantization import HEAD


@dataclass(frozen=True)
class Recovery:
    """What a recipe can say of a recovery; ``RecoverOptions`` has the rest, which the work decides.

    Windows are those of the calibration, the teacher is the original.
    """

    steps: int = 200
    lr: float = 3e-4
    batch_size: int = 4
    loss: str = "kl"
    temperature: float = 1.0
    divergence_weight: float = 1.0
    ce_weight: float = 0.0
    hidden_weight: float = 0.0
    samples: int | None = None
    keep_zeros: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> RecoverOptions:
        """Raises OptionError for a value out of range."""
        return RecoverOptions(**asdict(self))


def _prune(function: Any) -> Any:
    def run(model: Model, options: Any, context: Context) -> None:
        function(model, context.calibration, options, context.say, TensorJournal(context.work))

    return run


def _quantize(model: Model, options: QuantizeOptions, context: Context) -> None:
    if model.matrices:
        raise OptionError(
            "an earlier pass has quantized the model; let one pass do it, with 'overrides' for "
            "matrices in other formats"
        )
    journal = TensorJournal(context.work)
    recorded = set(restore_parts(model, journal))

    def progress(name: str, done: int, total: int) -> None:
        prefix = f"{name}." if name.startswith("h.") else name
        # The head comes last, and then the pass is done; a tied embedding stands for it.
        if name != HEAD and prefix not in recorded:
            record_part(model, journal, prefix)
        context.say(f"{done} of {total}")

    quantize(model, context.calibration, options, progress)
    if recorded:  # done before an interruption: what they lost is not known any more
        model.history[-1]["restored"] = sorted(recorded)


def _quantize_mixed(model: Model, options: MixedOptions, context: Context) -> None:
    def progress(name: str, done: int, total: int) -> None:
        context.say(f"what {name} loses, {done} of {total}")

    # Before the journal gives blocks back: a model that is rounded in part has none of its losses,
    # which are the same for any number of bits.
    journal = TensorJournal(context.shared / "-".join(form.label for form in options.formats))
    chosen = mixed_formats(model, context.calibration, options, journal, progress)
    _quantize(model, chosen, context)


def _recover(model: Model, options: Recovery, context: Context) -> None:
    teacher = open_model(context.original).network
    windows = context.calibration.windows

    def progress(done: int, total: int) -> None:
        context.say(f"step {done} of {total}")

    recover_model(model, teacher, windows, context.work, options.options(), progress)


PASSES: dict[str, Pass] = {
    "prune-layers": Pass(LayerOptions, _prune(prune_layers)),
    "prune-heads": Pass(HeadOptions, _prune(prune_heads)),
    "prune-neurons": Pass(NeuronOptions, _prune(prune_neurons)),
    "prune-weights": Pass(WeightOptions, _prune(prune_weights)),
    "recover": Pass(Recovery, _recover),
    "quantize": Pass(QuantizeOptions, _quantize),
    "quantize-mixed": Pass(MixedOptions, _quantize_mixed),
}
OPTIONS = {name: entry.options for name, entry in PASSES.items()}
