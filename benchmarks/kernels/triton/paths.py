"""Importing this lets a file of this folder run alone: ``gpu`` and ``gpt2fast`` are then found."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
sys.path[1:1] = [str(_ROOT / "benchmarks"), str(_ROOT)]
