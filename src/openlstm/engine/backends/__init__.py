"""What runs a call: the kernels on the CPU, torch's own on CUDA, the reference; `table.py` says which runs what."""
