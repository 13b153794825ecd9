"""The tests that depend on other projects, on the newest release of each that pip finds.

    python tests/support/newest_releases.py build/env/newest

Pinned releases keep CI steady, and see nothing of what users install. Where the newest of all are
the pinned ones, the tests have run already and nothing is run again.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from release_environment import make_environment

FOLLOWED = [
    *("transformers", "tokenizers", "huggingface_hub", "numpy", "onnx", "onnxruntime"),
    *("accelerate", "peft", "safetensors"),
]
TESTS = [
    "tests/hf",
    "tests/export",
    "tests/checkpoint",
    "tests/train",
    "tests/test_exact.py",
    "tests/test_documentation.py",
]
_VERSIONS = "from importlib.metadata import version; import sys; print(*map(version, sys.argv[1:]))"


def main(folder: Path, more: list[str]) -> int:
    """Exit status of pytest there; 0 where there is nothing new."""
    python = make_environment(folder, FOLLOWED, upgrade=True)
    found = subprocess.run(
        [python, "-c", _VERSIONS, *FOLLOWED], check=True, capture_output=True, text=True
    ).stdout.split()
    new = [
        f"{name} {release} (pinned: {version(name)})"
        for name, release in zip(FOLLOWED, found, strict=True)
        if release != version(name)
    ]
    if not new:
        print(f"newest releases: all of {', '.join(FOLLOWED)} are the pinned ones")
        return 0
    print(f"newest releases: {', '.join(new)}", flush=True)
    command = [python, "-m", "pytest", "-m", "not slow", "-n", "auto", *(more or TESTS)]
    status = subprocess.run(command, check=False).returncode
    if status:
        print(f"FAILED on the newest releases: {', '.join(new)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:]))
