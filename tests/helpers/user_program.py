"""What a user writes; never run, but read by ``mypy --strict`` with the wheel installed."""

from pathlib import Path
from typing import assert_type

import jax
import numpy as np
from flax import nnx

import flax_attn as fa

model = fa.AttnVGG(num_classes=2, norm="softmax", rngs=nnx.Rngs(0))
out = model(fa.normalize(np.zeros((1, 64, 64, 3), np.uint8)), train=False)
assert_type(out, fa.AttnOutput)
structure, params, stats = fa.split(model)
assert_type(params, dict[str, jax.Array])
assert_type(fa.attention.make_alignment("softmax"), fa.attention.Alignment)
run: fa.TrainedRun = fa.load("runs/photos")
said = run.predict(sorted(Path("photos").glob("*.jpg")))
assert_type(said.labels, list[str])
maps = fa.explain.grad_cam(run.network, said.images, said.probabilities.argmax(-1), "conv5")
try:
    fa.train(run.config, fa.data.open_dataset(run.config.data), workdir="again")
except fa.FlaxAttnError as error:
    raise SystemExit(error.exit_code) from error
