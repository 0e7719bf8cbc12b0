"""The parts of scripts/render_benchmarks."""
