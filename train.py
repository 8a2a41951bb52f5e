"""Train a network from a clone: ``python train.py --norm sigmoid`` (or ``flax-attn train``)."""

import sys

from flax_attn.system.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
