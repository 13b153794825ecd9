"""A command whose standard error is a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import threading


def run_on_terminal(*command: str) -> tuple[int, str]:
    """Exit code of ``python <command>``, and what it showed on standard error."""
    terminal, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # nobody writes any more
            while part := os.read(terminal, 1 << 16):
                shown.extend(part)

    # Read all the time: the buffer of a terminal is small, and a full one stops who writes.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    done = subprocess.run(
        [sys.executable, *command], stderr=theirs, stdout=subprocess.DEVNULL, timeout=60
    )
    os.close(theirs)
    reader.join(10)
    os.close(terminal)
    return done.returncode, shown.decode()
