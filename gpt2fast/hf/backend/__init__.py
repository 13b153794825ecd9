"""The runner behind an accelerated network, with its options, locks and key-value cache."""
