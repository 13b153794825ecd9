"""The command line's flags of the library's options, and messages of the library in these words."""

from __future__ import annotations

import re
from collections.abc import Mapping

# A value as Python shows it: a string in quotes, or anything up to a space or punctuation.
_VALUE = r"""(?: ?= ?(?P<value>'[^']*'|"[^"]*"|[^\s,;:()]+))"""
# Not within a path, a quoted text, a longer name or a flag.
_BEFORE, _AFTER = r"""(?<![\w./\\'"-])""", r"""(?![\w/\\'"]|[.-]\w)"""


def flag_name(option: str) -> str:
    """``held_out`` -> ``--held-out``."""
    return "--" + option.replace("_", "-")


def in_flags(message: str, flags: Mapping[str, str]) -> str:
    """``message`` with ``flags`` (of option name) in place of option names.

    ``top_p = 2.0`` becomes ``--top-p 2.0``; a name that is also a word, such as ``stop``, is one
    only where a value follows. A message about a JSON file speaks of that file's fields.
    """
    if not flags or ".json" in message:
        return message
    words = "|".join(sorted((name for name in flags if "_" not in name), reverse=True))
    names = "|".join(sorted((name for name in flags if "_" in name), reverse=True))
    patterns = [
        rf"(?P<word>{words}){_VALUE}" if words else "",
        rf"(?P<name>{names})(?:{_VALUE.replace('value', 'value2')}|{_AFTER})" if names else "",
    ]
    pattern = rf"{_BEFORE}(?:{'|'.join(filter(None, patterns))})"

    def flag(found: re.Match[str]) -> str:
        groups = found.groupdict()
        name = flags[groups.get("word") or groups.get("name") or ""]
        value = groups.get("value") or groups.get("value2")
        return name if value is None else f"{name} {_as_argument(value)}"

    return re.sub(pattern, flag, message)


def _as_argument(value: str) -> str:
    if value == "None":
        return "none"
    plain = value[1:-1] if value[0] in "'\"" else value
    return plain if plain and not re.search(r"\s", plain) else value
