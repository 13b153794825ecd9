"""Writing to the disk: whole or not at all, and with one clear error where that cannot be."""
