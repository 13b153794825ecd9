"""The operations as Triton kernels for NVIDIA GPUs, one file per operation.

Each is held against ``gpt2fast.kernels.reference``. Shapes in one alphabet: S sequences, T rows of
a step, C width, H heads, D head size, K inputs and N outputs of a matrix, M entries of a block
table.
"""
