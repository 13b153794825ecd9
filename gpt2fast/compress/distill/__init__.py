"""Distillation: a student learns a teacher's distributions. Recovery after pruning and
quantization-aware finishing are distillation from the model before."""
