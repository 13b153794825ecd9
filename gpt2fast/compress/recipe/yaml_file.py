"""YAML as people expect it: plain data, numbers such as 1e-4, and no key twice."""

from __future__ import annotations

import re
from typing import Any

from gpt2fast.errors import MissingDependencyError, OptionError

_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")  # which YAML 1.1 reads as a string


def read_yaml(text: str, source: str) -> Any:
    """The value in ``text``. Raises OptionError that names ``source`` for what is no YAML, and
    MissingDependencyError without PyYAML."""
    try:
        import yaml
    except ImportError:
        raise MissingDependencyError(
            "recipes need PyYAML: pip install 'gpt2fast[compress]'"
        ) from None
    try:
        return yaml.load(text, _loader(yaml))
    # PyYAML leaves what its numbers and dates cannot be to Python's own errors.
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(f"{source}: is not valid YAML: {reason}") from None


def _loader(yaml: Any) -> Any:
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """The safe loader, stricter with keys and wider with numbers."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                # Scalars alone can be equal here: whatever else is a key is refused below.
                name = (key.tag, key.value) if isinstance(key.value, str) else id(key)
                if name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands there twice", key.start_mark
                    )
                seen.add(name)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    return Loader
