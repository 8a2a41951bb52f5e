"""Port weights from a clone: ``python -m weights.port`` (or ``flax-attn port``)."""

import sys

from flax_attn.system.cli import main

if __name__ == "__main__":
    sys.exit(main(["port", *sys.argv[1:]]))
