"""A model between two passes: in memory, as a snapshot on the disk, and saved as an artifact."""

from gpt2fast.compress.state.artifact import save_model
from gpt2fast.compress.state.model import Model, QuantizedMatrix, open_model

__all__ = ["Model", "QuantizedMatrix", "open_model", "save_model"]
