"""Attention-gated convolutional networks in JAX and Flax.

What stands here is stable; docs/library.md shows each name in use::

    import flax_attn as fa
    model = fa.AttnVGG(num_classes=2, norm="softmax", rngs=nnx.Rngs(0))
    out = model(fa.normalize(images), train=False)   # out.logits, out.attention["pool3"]
    run = fa.load("runs/photos")                     # run.predict(["cat.jpg"]).probabilities

Names are imported when they are first used: ``import flax_attn`` alone loads nothing but the
standard library.
"""

from typing import TYPE_CHECKING, Any

from flax_attn.system.lazy import lazy_names

if TYPE_CHECKING:
    from flax_attn import attention as attention
    from flax_attn import data as data
    from flax_attn import explain as explain
    from flax_attn import ops as ops
    from flax_attn import porting as porting
    from flax_attn.config import Config as Config
    from flax_attn.config import make_config as make_config
    from flax_attn.errors import FlaxAttnError as FlaxAttnError
    from flax_attn.explain.trained_run import TrainedRun as TrainedRun
    from flax_attn.explain.trained_run import evaluate as evaluate
    from flax_attn.explain.trained_run import load as load
    from flax_attn.models.attn_vgg import AttnVGG as AttnVGG
    from flax_attn.models.baselines import DenseVGG as DenseVGG
    from flax_attn.models.baselines import GapVGG as GapVGG
    from flax_attn.models.baselines import PooledVGG as PooledVGG
    from flax_attn.models.family import resnet18 as resnet18
    from flax_attn.models.family import resnet50 as resnet50
    from flax_attn.models.family import vgg11 as vgg11
    from flax_attn.models.family import vgg11_bn as vgg11_bn
    from flax_attn.models.family import vgg13 as vgg13
    from flax_attn.models.family import vgg13_bn as vgg13_bn
    from flax_attn.models.family import vgg16 as vgg16
    from flax_attn.models.family import vgg16_bn as vgg16_bn
    from flax_attn.models.family import vgg19 as vgg19
    from flax_attn.models.family import vgg19_bn as vgg19_bn
    from flax_attn.models.functional import merge as merge
    from flax_attn.models.functional import split as split
    from flax_attn.models.network import AttnOutput as AttnOutput
    from flax_attn.models.resnet import ResNet as ResNet
    from flax_attn.models.vgg import VGG as VGG
    from flax_attn.ops.images import normalize as normalize
    from flax_attn.training.trainer import train as train

    __version__: str

# The module of each stable name; None for a room of the package.
_STABLE = {
    "AttnOutput": "models.network",
    "AttnVGG": "models.attn_vgg",
    "Config": "config",
    "DenseVGG": "models.baselines",
    "FlaxAttnError": "errors",
    "GapVGG": "models.baselines",
    "PooledVGG": "models.baselines",
    "ResNet": "models.resnet",
    "TrainedRun": "explain.trained_run",
    "VGG": "models.vgg",
    "attention": None,
    "data": None,
    "evaluate": "explain.trained_run",
    "explain": None,
    "load": "explain.trained_run",
    "make_config": "config",
    "merge": "models.functional",
    "normalize": "ops.images",
    "ops": None,
    "porting": None,
    "resnet18": "models.family",
    "resnet50": "models.family",
    "split": "models.functional",
    "train": "training.trainer",
    "vgg11": "models.family",
    "vgg11_bn": "models.family",
    "vgg13": "models.family",
    "vgg13_bn": "models.family",
    "vgg16": "models.family",
    "vgg16_bn": "models.family",
    "vgg19": "models.family",
    "vgg19_bn": "models.family",
}

__all__ = ["__version__", *_STABLE]


_stable, __dir__ = lazy_names(__name__, _STABLE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("flax_attn")
    return _stable(name)
