"""The parts of scripts/gpu_check. They run with Python 3.8."""
