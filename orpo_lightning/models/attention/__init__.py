"""Attention of the packed layout: where a token may look, and the kernels that compute it."""
