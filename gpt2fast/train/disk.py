"""Room on the disk for a run, asked for before it starts."""

from __future__ import annotations

import shutil

from gpt2fast.errors import OptionError
from gpt2fast.files.disk import check_place, human_size


def check_disk(out: str, num_parameters: int, keep: int) -> None:
    """Raise OptionError unless ``out`` can be written to and has room for ``keep`` checkpoints and
    the model. Writes nothing."""
    place = check_place(out, "--out")
    # A checkpoint holds weights and two moments in fp32; one more exists while it is being written.
    needed = num_parameters * 4 * (3 * (keep + 1) + 1)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OptionError(
            f"--out {out}: {human_size(needed)} are needed there for checkpoints and model, "
            f"{human_size(free)} are free; free some, or lower --keep"
        )
