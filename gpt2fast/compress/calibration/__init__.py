"""Calibration text, its three-way split, and what it makes of each matrix's inputs."""

from gpt2fast.compress.calibration.calibration import (
    Calibration,
    generate_calibration,
    read_calibration,
)

__all__ = ["Calibration", "generate_calibration", "read_calibration"]
