"""The module paths in pickles written until 2026-11, so that their models and caches still load."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from gpt2fast.hf.backend import last_run, options, paged_cache
from gpt2fast.hf.modeling import classes, quantizer
from gpt2fast.hf.weights import packed_modules
from gpt2fast.quantization import panel_layout

# What pickles refer to in each earlier module.
_EARLIER: dict[str, dict[str, Any]] = {
    "gpt2fast.panel_layout": {"PanelLayout": panel_layout.PanelLayout},
    "gpt2fast.hf.cache": {"_with_layers": paged_cache.rebuild_dynamic_cache},
    "gpt2fast.hf.classes": {"_revive": classes.new_instance},
    "gpt2fast.hf.last_run": {"LastRun": last_run.LastRun},
    "gpt2fast.hf.models": {kind.__name__: kind for kind in classes.CLASSES.values()},
    "gpt2fast.hf.native": {"Options": options.Options},
    "gpt2fast.hf.packed": {
        kind.__name__: kind
        for kind in (
            packed_modules.PackedConv1D,
            packed_modules.PackedEmbedding,
            packed_modules.PackedHead,
        )
    },
    "gpt2fast.hf.quantizer": {
        "PanelConfig": quantizer.PanelConfig,
        "PanelQuantizer": quantizer.PanelQuantizer,
    },
}


def register_earlier_paths() -> None:
    """Put modules under those paths into ``sys.modules``, where ``pickle`` looks."""
    for name, contents in _EARLIER.items():
        module = ModuleType(name, "Names that pickles of earlier releases refer to.")
        vars(module).update(contents)
        sys.modules[name] = module
