"""Compression: distil, prune, quantize, under a quality budget."""
