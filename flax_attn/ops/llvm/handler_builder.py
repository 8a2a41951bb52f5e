"""The builder of a handler: its answers to XLA, its table, its memory and its parallel phases."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from flax_attn.ops.llvm.ir import (
    BYTE,
    FIELD,
    FLOAT,
    FLOAT_BYTES,
    INT,
    INT32,
    NULL,
    POINTER,
    Machine,
    define,
)
from flax_attn.ops.llvm.threads import Parallel
from flax_attn.ops.llvm.xla_ffi import (
    EXTENSION_METADATA,
    RESOURCE_EXHAUSTED,
    VERSION,
    Buffer,
    CallFrame,
    CallValues,
    CreateError,
    Metadata,
    MetadataExtension,
    Version,
)

ALIGNMENT = 64
# From this size on, memory is asked for in huge pages.
HUGE_BYTES = 4 << 20
NO_MEMORY = "no memory for a convolution: use a smaller --batch-size\0"


class HandlerBuilder:
    """Writes the function that XLA calls for one operation of ours.

    All sizes are values of that function, known when it runs, not numbers known now.

    Args:
      module: the module that the function is added to.
      machine: the vectors of the processor.
      name: of the function.
      parallel: runs units of work on XLA's threads.
    """

    def __init__(self, module: ir.Module, machine: Machine, name: str, parallel: Parallel):
        self.machine, self.parallel = machine, parallel
        self.e, (self.frame,) = define(module, name, [POINTER], machine.lanes, returns=POINTER)
        self._answer_query()
        self._table = self.e.stack(len(FIELD))
        self._memory = NULL

    def _answer_query(self) -> None:
        """Emits the answer to XLA's first call, which asks for the version of the interface."""
        e, b = self.e, self.e.builder
        extension = e.field(self.frame, CallFrame.extension_start.offset, POINTER)
        with b.if_then(b.icmp_unsigned("!=", extension, NULL)):
            kind = e.field(extension, MetadataExtension.type.offset, INT32)
            with b.if_then(b.icmp_unsigned("==", kind, INT32(EXTENSION_METADATA))):
                answer = e.field(extension, MetadataExtension.metadata.offset, POINTER)
                version = e.byte_at(answer, Metadata.api_version.offset)
                for part, number in zip((Version.major, Version.minor), VERSION, strict=True):
                    b.store(INT32(number), e.byte_at(version, part.offset))
                b.store(INT32(0), e.byte_at(answer, Metadata.traits.offset))
                b.ret(NULL)

    def _buffer(self, index: int, values_offset: int) -> ir.Value:
        array = self.e.field(self.frame, values_offset + CallValues.values.offset, POINTER)
        return self.e.builder.load(self.e.word(array, index), typ=POINTER)

    def argument(self, index: int) -> ir.Value:
        """Returns the address of an argument's numbers."""
        return self.e.field(self._buffer(index, CallFrame.args.offset), Buffer.data.offset, POINTER)

    def result(self, floats: ir.Value) -> ir.Value:
        """Returns the address of the result, which has ``floats`` numbers."""
        buffer = self._buffer(0, CallFrame.rets.offset)
        address = self.e.field(buffer, Buffer.data.offset, POINTER)
        self._ask_for_huge_pages(address, self.e.mul(floats, FLOAT_BYTES))
        return address

    def sizes(self, index: int, rank: int) -> list[ir.Value]:
        """Returns the shape of an argument of this rank."""
        dims = self.e.field(self._buffer(index, CallFrame.args.offset), Buffer.dims.offset, POINTER)
        return [self.e.builder.load(self.e.word(dims, i), typ=INT) for i in range(rank)]

    def set(self, **fields: int | ir.Value) -> None:
        """Sets fields of the table that units read."""
        for name, value in fields.items():
            self.e.builder.store(self.e.number(value), self.e.word(self._table, FIELD[name]))

    def set_arguments(self, *fields: str) -> None:
        """Sets fields to the addresses of the arguments, in their order."""
        self.set(**{field: self.argument(i) for i, field in enumerate(fields)})

    def allocate(self, **floats: ir.Value) -> None:
        """Allocates memory for several fields of the table, freed by ``end``.

        Without memory the function returns an error to XLA.
        """
        e, b = self.e, self.e.builder
        total, starts = e.number(0), {}
        for name, size in floats.items():
            starts[name] = total
            total = e.add(total, e.mul(e.ceil_div(size, ALIGNMENT), ALIGNMENT))
        bytes_ = e.mul(total, FLOAT_BYTES)
        self._memory = b.call(self.parallel.libc["aligned_alloc"], [e.number(ALIGNMENT), bytes_])
        with b.if_then(b.icmp_unsigned("==", self._memory, NULL), likely=False):
            b.ret(self._error(NO_MEMORY))
        self._ask_for_huge_pages(self._memory, bytes_)
        self.set(**{name: e.at(self._memory, start) for name, start in starts.items()})

    def _ask_for_huge_pages(self, address: ir.Value, bytes_: ir.Value) -> None:
        """Asks the system to back memory not yet touched by pages of 2 MiB, where it has them.

        XLA allocates the memory of a step anew each time, and the system clears each page of it
        when it is first touched.
        """
        if sys.platform != "linux":
            return
        e, b = self.e, self.e.builder
        with b.if_then(b.icmp_unsigned(">=", bytes_, e.number(HUGE_BYTES))):
            first = b.ptrtoint(address, INT)
            start = e.mul(e.ceil_div(first, mmap.PAGESIZE), mmap.PAGESIZE)
            length = e.sub(e.add(first, bytes_), start)
            arguments = [b.inttoptr(start, POINTER), length, INT32(mmap.MADV_HUGEPAGE)]
            b.call(self.parallel.libc["madvise"], arguments)

    def _error(self, message: str) -> ir.Value:
        e, text = self.e, ir.Constant(ir.ArrayType(BYTE, len(message)), bytearray(message, "ascii"))
        name = f"{self.e.function.name}_message"
        place = ir.GlobalVariable(e.function.module, text.type, name)
        place.initializer, place.global_constant = text, True
        call = self.parallel.struct(e, CreateError)
        address = e.builder.inttoptr(e.builder.ptrtoint(place, INT), POINTER)
        e.builder.store(address, e.byte_at(call, CreateError.message.offset))
        e.builder.store(INT32(RESOURCE_EXHAUSTED), e.byte_at(call, CreateError.code.offset))
        return self.parallel.call_api(e, self.frame, "error_create", call)

    def clear(self, field: str, floats: ir.Value) -> None:
        """Sets the numbers of a field to zero."""
        e = self.e
        start = e.builder.load(e.word(self._table, FIELD[field]), typ=POINTER)
        with e.loop(floats) as i:
            e.builder.store(FLOAT(0.0), e.at(start, i))

    def run(self, unit: ir.Function, count: ir.Value) -> None:
        """Runs ``count`` units of work on all threads, and waits for them."""
        self.e.builder.call(self.parallel.run, [self.frame, unit, self._table, count])

    def threads(self) -> ir.Value:
        """Returns how many units may run at once."""
        return self.e.builder.call(self.parallel.threads, [self.frame])

    @contextmanager
    def rounds(self, tiles: ir.Value, room: ir.Value) -> Iterator[ir.Value]:
        """Loops over rounds of at most ``room`` tiles; yields the number of tiles in the round."""
        e = self.e
        with e.loop(e.ceil_div(tiles, room)) as i:
            first = e.mul(i, room)
            count = e.minimum(e.sub(tiles, first), room)
            self.set(first=first, count=count)
            yield count

    def end(self) -> None:
        """Frees the memory and returns success to XLA."""
        self.e.builder.call(self.parallel.libc["free"], [self._memory])
        self.e.builder.ret(NULL)
