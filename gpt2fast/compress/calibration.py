"""Text that passes may look at: windows of the user's, or text that the model itself writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Calibration:
    """Windows of token ids, and where they come from."""

    windows: NDArray[np.int64]  # (N, T)
    origin: str  # for the report

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows."""
        return int(self.windows.size)
