"""A griffe extension: the comment behind a field of a dataclass is the field's documentation."""

from __future__ import annotations

import io
import tokenize
from typing import Any

from griffe import Attribute, Docstring, Extension


class FieldComments(Extension):
    """Gives attributes of classes that have no docstring the comment on their last line."""

    def on_attribute_instance(self, *, attr: Attribute, **kwargs: Any) -> None:
        """Called by griffe for each attribute that it meets."""
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class:
            comment = _comment(attr.source)
            if comment:
                text = comment[0].upper() + comment[1:]
                attr.docstring = Docstring(text, parent=attr, lineno=attr.lineno)


def _comment(source: str) -> str:
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError):
        return ""
    found = [each.string.lstrip("# ") for each in tokens if each.type == tokenize.COMMENT]
    return found[-1] if found else ""
