"""The parts of scripts/compare_torch. They run with Python 3.8, for scripts/gpu_check."""
