"""Kernels: operations that beat PyTorch's own, in Triton on accelerators and in C on CPUs.

One file an operation: gelu, norm, linear, attention, xent (sigmoid cross-entropy) and updates (optimizer
steps) hold the function that callers use, the choice of the implementation, and the same in plain PyTorch
(`…_reference`), which is the fallback. Implementations lie in triton/ (imported where used, since Triton is
not everywhere) and in cpu/ (C files, compiled at first need). fp8_linear.py, fp8_autotune.py and
cuda_graph.py are for NVIDIA GPUs. benchmarks/kernels.py compares Triton kernels with the references.
"""
