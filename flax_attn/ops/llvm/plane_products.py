"""The 36 products of a block of tiles and a panel of outputs, in blocks that fit its tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from flax_attn.ops.llvm.ir import Context, Emitter, Machine
from flax_attn.ops.llvm.products import block_product
from flax_attn.ops.winograd import POSITIONS

# Output channels whose products a worker holds at once: whole chunks on every machine.
PANEL = 64
# Input channels that are multiplied at once: with a chunk of outputs a plane stays in the L1 cache.
SLICE = 128
# Rows of the blocks that finish a product whose tiles do not fill the last block.
LESS_ROWS = (4, 2)


@dataclass(frozen=True)
class PlaneProduct:
    """The functions that multiply blocks of so many rows, and those that add to what is there."""

    machine: Machine
    fresh: dict[int, ir.Function]
    more: dict[int, ir.Function]

    @classmethod
    def of(cls, module: ir.Module, machine: Machine) -> PlaneProduct:
        """Defines the functions in a module."""
        fresh, more = (
            {
                rows: block_product(
                    module, machine, f"{name}_{rows}", rows=rows, accumulate=accumulate
                )
                for rows in (machine.rows, *LESS_ROWS)
            }
            for name, accumulate in (("fresh", False), ("more", True))
        )
        return cls(machine, fresh, more)

    def planes(
        self,
        e: Emitter,
        x: Context,
        *,
        left: ir.Value,
        right: ir.Value,
        right_step: ir.Value,
        out: ir.Value,
        count: ir.Value,
        chunks: ir.Value,
        depth: ir.Value,
        more: ir.Value | None = None,
    ) -> None:
        """Emits the 36 products of ``count`` tiles and some chunks of outputs.

        ``left`` is [36, count, c], ``right`` [36, chunks, depth, chunk], ``right_step`` floats from
        a chunk to the next, and ``out`` [36, count, PANEL]. Where ``more`` is not 0, they are added
        to ``out``.
        """
        c, tile_plane, kernel_plane = x.c, x.tile_plane, x.kernel_plane
        product_plane, chunk = x.product_plane, self.machine.chunk

        def multiply(functions: dict[int, ir.Function], k: ir.Value | int) -> None:
            deep = e.minimum(e.sub(depth, k), SLICE)
            b = e.at(to_right, e.mul(k, chunk))

            def block(rows: int, t: ir.Value) -> None:
                a, target = e.at(to_left, e.add(e.mul(t, c), k)), e.at(to_out, e.mul(t, PANEL))
                arguments = [a, c, e.number(1), b, target, e.number(PANEL), deep]
                e.builder.call(functions[rows], arguments)

            self._cover(e, count, block)

        with e.loop(POSITIONS) as p, e.loop(chunks) as q:
            to_left = e.at(left, e.mul(p, tile_plane))
            to_right = e.at(right, e.add(e.mul(p, kernel_plane), e.mul(q, right_step)))
            to_out = e.at(out, e.add(e.mul(p, product_plane), e.mul(q, chunk)))
            if more is None:
                multiply(self.fresh, 0)
            else:
                added = e.builder.icmp_unsigned("!=", more, e.number(0))
                with e.builder.if_else(added) as (then, otherwise):
                    with then:
                        multiply(self.more, 0)
                    with otherwise:
                        multiply(self.fresh, 0)
            with e.loop(e.sub(e.maximum(depth, SLICE), SLICE), step=SLICE) as k:
                multiply(self.more, e.add(k, SLICE))

    def _cover(self, e: Emitter, count: ir.Value, block: Callable[[int, ir.Value], None]) -> None:
        """Emits blocks that cover ``count`` rows: whole ones, then the smallest for the rest."""
        rows = self.machine.rows
        rest = e.mod(count, rows)
        wide = e.builder.icmp_unsigned(">", rest, e.number(LESS_ROWS[0]))
        whole = e.builder.select(wide, e.add(count, rows), count)
        whole = e.mul(e.div(whole, rows), rows)
        with e.loop(whole, step=rows) as t:
            block(rows, t)
        for most, least in zip(LESS_ROWS, (*LESS_ROWS[1:], 0), strict=True):
            fits = e.builder.and_(
                e.builder.icmp_unsigned("<=", rest, e.number(most)),
                e.builder.icmp_unsigned(">", rest, e.number(least)),
            )
            with e.builder.if_then(fits):
                block(most, whole)
