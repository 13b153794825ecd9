"""What can be refused before any work: a recipe that the model cannot have, a size out of reach,
places that cannot be written."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from gpt2fast.checkpoint import Checkpoint
from gpt2fast.compress.options import CompressOptions
from gpt2fast.compress.prune.layers import LayerOptions
from gpt2fast.compress.quantize import QuantizeOptions
from gpt2fast.compress.quantize.mixed import MixedOptions, bytes_within
from gpt2fast.compress.quantize.run import check_overrides
from gpt2fast.compress.recipe.recipe import Recipe, Step
from gpt2fast.compress.search.search import Candidate, small_enough
from gpt2fast.config import ModelConfig
from gpt2fast.errors import MissingDependencyError, OptionError
from gpt2fast.files.disk import check_place


def check_request(
    options: CompressOptions, checkpoint: Checkpoint, sets: Sequence[Sequence[Candidate]]
) -> None:
    """Raise what ``compress`` would raise after minutes. ``sets``: the candidates of the search."""
    _check_original(checkpoint, options)
    check_place(str(options.out), "OUT")
    if options.work is not None:
        check_place(str(options.work), "--work")
    if options.recipe is not None:
        check_recipe(options.recipe, checkpoint.config)
    elif find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "the Pareto plot needs matplotlib: pip install 'gpt2fast[compress]'"
        )
    small_enough([candidate for each in sets for candidate in each], options.budget)


def _check_original(checkpoint: Checkpoint, options: CompressOptions) -> None:
    if checkpoint.quantization is not None:
        raise OptionError(
            f"{checkpoint.path} is stored in {checkpoint.quantization.name}; compress the float "
            "checkpoint it was made from"
        )
    source = checkpoint.path.resolve()
    for place in (options.out.resolve(), options.work_directory.resolve()):
        if place == source or source in place.parents:
            raise OptionError(f"{place} lies in the model's own directory; choose another place")


def check_recipe(recipe: Recipe, config: ModelConfig) -> None:
    """Raise OptionError, naming the pass, where one cannot follow those before it on a model of
    ``config``."""
    layers, rounded, reshaped = config.n_layer, False, False
    for step in recipe.steps:
        try:
            if rounded and step.name != "recover":
                raise OptionError(
                    "an earlier pass has quantized the model; prune first, and let "
                    "one pass quantize, with 'overrides' for matrices of their own"
                )
            layers -= _removed(step, layers)
            reshaped |= step.name in ("prune-layers", "prune-heads", "prune-neurons")
            if isinstance(step.options, QuantizeOptions):
                check_overrides(step.options, config, layers)
            if isinstance(step.options, MixedOptions) and not reshaped:
                bytes_within(config, step.options)
        except OptionError as error:
            raise OptionError(f"the recipe's {step.name}: {error}") from None
        rounded |= step.name in ("quantize", "quantize-mixed")


def _removed(step: Step, layers: int) -> int:
    return step.options.count_in(layers) if isinstance(step.options, LayerOptions) else 0
