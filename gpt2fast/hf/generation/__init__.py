"""``generate``: decoding, logits processors and sampling on the backend."""
