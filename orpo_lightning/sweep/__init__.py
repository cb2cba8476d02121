"""Sweeps: a file in the format of Weights & Biases, run here without an account."""
