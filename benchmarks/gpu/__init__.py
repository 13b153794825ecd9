"""What ``benchmarks/gpu_suite.py`` is made of; its parts run as processes of their own."""

import sys
from pathlib import Path

# This checkout is found whether it is installed or not.
_ROOT = str(Path(__file__).resolve().parents[2])
if _ROOT not in sys.path:
    sys.path.insert(1, _ROOT)
