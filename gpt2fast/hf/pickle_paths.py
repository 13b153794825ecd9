"""Module paths that pickles of earlier releases name: their models, caches and options load as
before."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from gpt2fast.hf.backend import last_run, options, paged_cache
from gpt2fast.hf.modeling import classes, quantizer
from gpt2fast.hf.weights import packed_modules

# What a pickle could hold of each earlier module of gpt2fast.hf.
_EARLIER: dict[str, dict[str, Any]] = {
    "cache": {"_with_layers": paged_cache._with_layers},
    "classes": {"_revive": classes._revive},
    "last_run": {"LastRun": last_run.LastRun},
    "models": {kind.__name__: kind for kind in classes.CLASSES.values()},
    "native": {"Options": options.Options},
    "packed": {
        kind.__name__: kind
        for kind in (
            packed_modules.PackedConv1D,
            packed_modules.PackedEmbedding,
            packed_modules.PackedHead,
        )
    },
    "quantizer": {
        "PanelConfig": quantizer.PanelConfig,
        "PanelQuantizer": quantizer.PanelQuantizer,
    },
}


def register_earlier_paths() -> None:
    """Let ``pickle`` find what moved."""
    for name, contents in _EARLIER.items():
        module = ModuleType(f"gpt2fast.hf.{name}", "For pickles of earlier releases.")
        vars(module).update(contents)
        sys.modules[module.__name__] = module
