"""Room on the disk: asked for before a run starts, and named as the cause when it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from gpt2fast.errors import GPT2FastError, OptionError

_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR)
_ALMOST_FULL = 2**22


def check_disk(out: str, num_parameters: int, keep: int) -> None:
    """Raise OptionError unless ``out`` has room for ``keep`` checkpoints and the model."""
    # A checkpoint holds weights and two moments in fp32; one more exists while it is being written.
    needed = num_parameters * 4 * (3 * (keep + 1) + 1)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise OptionError(
            f"--out {out}: {needed / 1e9:.2f} GB are needed there for checkpoints and model, "
            f"{free / 1e9:.2f} GB are free; free some, or lower --keep"
        )


@contextmanager
def clear_disk_errors(out: str) -> Iterator[None]:
    """Turn a failed write below ``out`` into an OptionError."""
    try:
        yield
    except GPT2FastError:
        raise
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise OptionError(
            f"--out {out}: cannot write there ({error.strerror}); free space or choose another "
            "directory. A run that had begun goes on with --resume"
        ) from None
    except Exception as error:
        # torch and safetensors report a full disk as errors of their own.
        if shutil.disk_usage(out).free > _ALMOST_FULL:
            raise
        raise OptionError(
            f"--out {out}: the disk is full ({error}); free space and add --resume to go on"
        ) from error
