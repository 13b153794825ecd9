"""``save_model`` under its earlier import path."""

from gpt2fast.compress.state.artifact import save_model

__all__ = ["save_model"]
