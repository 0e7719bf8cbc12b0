"""The parts of scripts/compare_hf."""
