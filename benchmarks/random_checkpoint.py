"""GPT-2 checkpoints of true sizes with random weights; the package's own, for tests and scripts."""

from gpt2fast.bench.sizes import SIZES, random_checkpoint

__all__ = ["SIZES", "random_checkpoint"]
