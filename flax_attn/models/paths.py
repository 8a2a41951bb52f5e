"""Parts of array paths that more than one module must agree on."""

# Paths of the convolutional part start with this; all others belong to the head.
BACKBONE = "backbone/"
