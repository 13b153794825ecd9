"""Options of Python in messages, in the words of the command line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpt2fast.errors import GPT2FastError


def in_flags(message: str, names: tuple[str, ...]) -> str:
    """``message`` with ``precision = 'x'`` as ``--precision x``, for each option of ``names``."""
    for name in names:
        flag = "--" + name.replace("_", "-")
        message = re.sub(rf"\b{name} ?= ?'([^']*)'", rf"{flag} \1", message)
        message = re.sub(rf"\b{name} ?= ?([^\s'\"=][^\s,;:]*)", rf"{flag} \1", message)
    return message


@contextmanager
def flags_named(*names: str) -> Iterator[None]:
    """Errors and warnings name the flags of the options ``names``."""
    show: Any = warnings.showwarning

    def show_in_flags(message: Warning | str, *rest: Any) -> None:
        show(in_flags(str(message), names), *rest)

    warnings.showwarning = show_in_flags  # type: ignore[assignment]
    try:
        yield
    except GPT2FastError as error:
        raise type(error)(in_flags(str(error), names)) from error
    finally:
        warnings.showwarning = show
