"""What the package says of its options, under the names that they have on the command line."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpt2fast.errors import GPT2FastError
from gpt2fast.flag_names import with_flags

_NO_FLAGS = {"command", "model", "models"}  # given by their place


@contextmanager
def flags_named(args: argparse.Namespace) -> Iterator[None]:
    """Errors and warnings inside name the flags of ``args`` in place of arguments of functions."""
    names = [name for name in vars(args) if name not in _NO_FLAGS]
    flags = {name: "--" + name.replace("_", "-") for name in names}
    shown = warnings.showwarning

    def show(message: Warning | str, *rest: Any) -> None:
        shown(with_flags(str(message), flags), *rest)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            yield
        except GPT2FastError as error:
            raise type(error)(with_flags(str(error), flags)) from error.__cause__
