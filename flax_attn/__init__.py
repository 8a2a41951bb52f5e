"""Attention-gated convolutional networks in JAX and Flax."""
