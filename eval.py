"""Evaluate a trained run from a clone: ``python eval.py --workdir RUN`` (or ``flax-attn eval``)."""

import sys

from flax_attn.system.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
