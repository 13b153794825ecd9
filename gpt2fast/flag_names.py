"""Messages that name options as Python does, for who gave them as flags of a command."""

from __future__ import annotations

import re
from collections.abc import Mapping

_VALUE = r"""(?:'([^']*)'|"([^"]*)"|(-?\w[\w.+-]*\w|-?\w))"""


def with_flags(message: str, flags: Mapping[str, str]) -> str:
    """``message`` with ``name = value`` as ``--flag value``; ``flags`` maps names to flags. A name
    without a value is replaced where it has an underscore, for then it is no word of English."""
    for name, flag in flags.items():
        message = re.sub(rf"(?<![\w.-]){name} ?= ?{_VALUE}", rf"{flag} \1\2\3", message)
        if "_" in name:
            message = re.sub(rf"(?<![\w.-]){name}(?![\w(])", flag, message)
    return message
