"""Pure functions of arrays: images, losses, metrics, 3x3 convolution, normalisation and pooling.

Each operation chooses its form for the backend, the shape and the sharding, and falls back to
XLA's own; callers name what they want, never how. ``llvm`` holds the forms compiled for the
processor at hand.

Refuses state, configuration and files.

Read ``conv`` first: how a form is chosen, and what every form computes.
"""
