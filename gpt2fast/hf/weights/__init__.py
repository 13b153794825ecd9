"""A transformers network in memory as a checkpoint: its structure, its changes, its memory."""
