"""Kernels compiled for a processor by LLVM, and registered with XLA under names of their own."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import llvmlite
from llvmlite import binding as llvm
from llvmlite import ir

from flax_attn.ops import winograd
from flax_attn.ops.llvm.evaluation_handlers import build as build_evaluation
from flax_attn.ops.llvm.handlers import build
from flax_attn.ops.llvm.ir import Machine
from flax_attn.system.compilation_cache import kept_code
from flax_attn.system.cpu import max_isa

# By a feature of the processor: vectors of 64 bytes, of 32, or of 16.
MACHINES = {
    "avx512f": Machine(lanes=16, columns=4, rows=6, sum_rows=4),
    "avx2": Machine(lanes=8, columns=2, rows=6, sum_rows=4),
    "neon": Machine(lanes=4, columns=4, rows=6, sum_rows=4),
}


# What the code is written by.
SOURCES = (*sorted(Path(__file__).parent.glob("*.py")), Path(winograd.__file__))

# By the value of ``--xla_cpu_max_isa``, how the names of LLVM's features beyond it begin.
BEYOND = {
    "SSE4_2": ("avx", "fma", "f16c", "vaes", "vpclmulqdq", "amx"),
    "AVX": ("avx2", "avx512", "avx10", "fma", "amx"),
    "AVX2": ("avx512", "avx10", "amx"),
}


def host_machine() -> Machine | None:
    """Returns the machine for this processor, or for what XLA's flag permits of it (``max_isa``).

    None where vectors are too short to pay.
    """
    features = _host_features()
    return next((m for name, m in MACHINES.items() if features.get(name)), None)


class Compiled:
    """The handlers of a machine, compiled and registered; ``name`` gives XLA's name of one.

    ``build`` writes the module that has them.
    """

    def __init__(self, machine: Machine, build: Callable[[Machine], ir.Module]):
        self.machine = machine
        target = _host_target()
        name = f"flax_attn-kernels-{_digest(target, machine, build)}"
        code = kept_code(name, lambda: _object_code(target, build(machine)))
        # The engine owns the code, which XLA may call as long as the process lives.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _host_target())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()

    def name(self, handler: str) -> str:
        """Returns XLA's name of a handler, which is registered when first asked for."""
        return _register(self, handler)


def _object_code(target: llvm.TargetMachine, source: ir.Module) -> bytes:
    module = llvm.parse_assembly(str(source))
    module.triple, module.data_layout = target.triple, str(target.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    # The loops are vectorised and unrolled already.
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(target, options)
    passes.getModulePassManager().run(module, passes)
    return target.emit_object(module)


def _digest(
    target: llvm.TargetMachine, machine: Machine, build: Callable[[Machine], ir.Module]
) -> str:
    """Returns a digest of all that decides the code: its sources, LLVM, and the processor."""
    processor = target.triple, llvm.get_host_cpu_name(), _host_features().flatten(), mmap.PAGESIZE
    compiler = llvm.llvm_version_info, llvmlite.__version__
    digest = hashlib.sha256(repr((processor, compiler, machine, build.__module__)).encode())
    for path in SOURCES:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


@cache
def compiled(machine: Machine) -> Compiled:
    """Returns the kernels of a machine, compiled once a process."""
    return Compiled(machine, build)


@cache
def compiled_evaluation(machine: Machine) -> Compiled:
    """Returns the kernels of evaluation of a machine, compiled once a process."""
    return Compiled(machine, build_evaluation)


@cache
def _register(code: Compiled, handler: str) -> str:
    name = f"flax_attn_{handler}_{code.machine.lanes}"
    address = code._engine.get_function_address(handler)
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype = ctypes.py_object
    capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    jax.ffi.register_ffi_target(name, capsule(address, None, None), platform="cpu")
    return name


def _host_features() -> llvm.FeatureMap:
    features = llvm.get_host_cpu_features()
    beyond = BEYOND.get(max_isa(), ())
    features.update({name: False for name in features if name.startswith(beyond)})
    return features


def _host_target() -> llvm.TargetMachine:
    """Returns a machine of LLVM's; each engine needs one of its own, which it owns."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = _host_features()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        # LLVM would rather halve the longest vectors of some processors.
        features=f"{features.flatten()},-prefer-256-bit"
        if features.get("avx512f")
        else features.flatten(),
        opt=3,
        jit=True,
    )
