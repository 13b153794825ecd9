"""What ``benchmarks/gpu_suite.py`` is made of; its parts run as processes of their own."""
