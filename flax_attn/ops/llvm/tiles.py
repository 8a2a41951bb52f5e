"""Units of work that transform images and kernels into the 36 planes of Winograd's form, and back.

Images are [b, h, w, c] with channels innermost, and every instruction works on a vector of
channels. Tiles are numbered through the batch, row by row. Planes are a cache line further apart
than they are long: at distances of powers of two they would evict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llvmlite import ir

from flax_attn.ops.llvm.ir import (
    INT,
    POINTER,
    Context,
    Emitter,
    Machine,
    Values,
    begin_unit,
    define,
)
from flax_attn.ops.winograd import (
    POSITIONS,
    REACH,
    TILE,
    Map,
    both_axes,
    cotangent_map,
    input_map,
    kernel_map,
    tap_map,
)

TILES_A_UNIT = 8
# Floats of a cache line.
LINE = 16


def kernel_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that computes G g G^T for the kernels of one input channel."""
    e, x, channel, _ = begin_unit(module, "kernel_unit", machine)
    chunk, plane = machine.chunk, x.kernel_plane
    with e.loop(e.div(x.d, chunk)) as part:
        place = e.mul(e.add(e.mul(part, x.c), channel), chunk)
        transform_kernels(e, x, machine, channel, part, e.at(x.kernels, place), plane)
    e.builder.ret_void()
    return e.function


def transform_kernels(
    e: Emitter,
    x: Context,
    machine: Machine,
    channel: ir.Value,
    part: ir.Value,
    target: ir.Value,
    plane: ir.Value,
) -> None:
    """Emits G g G^T from one input channel to one chunk of outputs, ``plane`` floats apart."""
    d = x.d
    source = e.at(x.kernel, e.add(e.mul(channel, d), e.mul(part, machine.chunk)))
    tap = e.mul(x.c, d)
    with e.loop(machine.columns) as column:
        start = e.mul(column, e.lanes)
        taps = e.load_planes(e.at(source, start), tap, 9)
        e.store_planes(both_axes(kernel_map, taps), e.at(target, start), plane)


def turn_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that turns one tap of the kernel by 180° and transposes its channels."""
    e, x, tap, _ = begin_unit(module, "turn_unit", machine)
    c, d, lanes = x.c, x.d, e.lanes
    plane = e.mul(c, d)
    source = e.at(x.turned, e.mul(e.sub(8, tap), plane))
    target = e.at(x.kernel, e.mul(tap, plane))
    with e.loop(d, step=lanes) as row, e.loop(c, step=lanes) as column:
        # From [d, c] to [c, d], a square at a time.
        start, place = e.add(e.mul(row, c), column), e.add(e.mul(column, d), row)
        square = e.load_planes(e.at(source, start), c, lanes)
        e.store_planes(e.transposed(square), e.at(target, place), d)
    e.builder.ret_void()
    return e.function


def tap_unit(module: ir.Module, machine: Machine) -> ir.Function:
    """Builds the unit that computes G^T u G for the sums of one input channel."""
    e, x, channel, _ = begin_unit(module, "tap_unit", machine)
    d, plane, tap = x.d, x.sum_plane, e.mul(x.c, x.d)
    row = e.mul(channel, d)
    source, target = e.at(x.sums, row), e.at(x.out, row)
    with e.loop(d, step=e.lanes) as start:
        sums = e.load_planes(e.at(source, start), plane, POSITIONS)
        e.store_planes(both_axes(tap_map, sums), e.at(target, start), tap)
    e.builder.ret_void()
    return e.function


def image_transform(module: ir.Module, machine: Machine, *, normalised: bool) -> ir.Function:
    """Defines B^T D B of overlapping 6x6 tiles of the image, with zeros around it.

    Its arguments are ``(context, first tile, out, tiles)``; in ``out`` tiles and vectors of
    channels lie as ``tile_step`` and ``vector_step`` say. With ``normalised`` each pixel is
    replaced by max(input_factor * pixel + input_offset, 0) first.
    """
    name, read = ("normalised_", _read_normalised) if normalised else ("", _read)
    kinds = [POINTER, INT, POINTER, INT]
    name = f"{name}image_transform"
    e, (context, first, out, count) = define(module, name, kinds, machine.lanes)
    x = Context(e, context)
    grid = Grid(x.image, x.c, side=REACH, margin=1)
    to = Target(out, x.tile_step, x.vector_step, x.tile_plane)

    def reader(t: ir.Value) -> Read:
        return read(e, x, grid.pixels(e, x, e.add(first, t)))

    transform_tiles(e, count, x.c, reader, input_map, to)
    e.builder.ret_void()
    return e.function


def tiles_unit(module: ir.Module, machine: Machine, transform: ir.Function) -> ir.Function:
    """Builds the unit that runs ``image_transform`` on a few tiles, for all workers."""
    e, x, index, _ = begin_unit(module, f"{transform.name}_unit", machine)
    _transform_few(e, x, index, transform)
    e.builder.ret_void()
    return e.function


def gradient_tiles_unit(module: ir.Module, machine: Machine, transform: ir.Function) -> ir.Function:
    """Builds the same, which also computes A Y A^T for the 4x4 tiles of the output's gradient."""
    e, x, index, _ = begin_unit(module, f"{transform.name}_gradient_unit", machine)
    start, count = _transform_few(e, x, index, transform)
    grid, chunk = Grid(x.cotangent, x.d), e.number(machine.chunk)
    out, group = e.at(x.cotangents, e.mul(start, chunk)), e.mul(x.room, chunk)
    to = Target(out, chunk, group, x.cotangent_plane, together=machine.columns)

    def reader(t: ir.Value) -> Read:
        return _read(e, x, grid.pixels(e, x, e.add(x.first, start, t)))

    transform_tiles(e, count, x.d, reader, cotangent_map, to)
    e.builder.ret_void()
    return e.function


def _transform_few(
    e: Emitter, x: Context, index: ir.Value, transform: ir.Function
) -> tuple[ir.Value, ir.Value]:
    """Emits the transform of a unit's tiles; returns the first, in memory, and how many."""
    start = e.mul(index, TILES_A_UNIT)
    count = e.minimum(e.sub(x.count, start), TILES_A_UNIT)
    to = e.at(x.tiles, e.mul(start, x.tile_step))
    e.builder.call(transform, [x.address, e.add(x.first, start), to, count])
    return start, count


class Pixel(NamedTuple):
    """The address of a pixel's channels, and whether it is inside the image."""

    inside: ir.Value
    address: ir.Value


@dataclass(frozen=True)
class Grid:
    """Square tiles of an image, ``side`` pixels wide, that reach ``margin`` to the top and left.

    Args:
      image: the address of [b, h, w, channels].
      channels: how many there are.
      side: the width of a tile in pixels.
      margin: the pixels by which a tile begins above and left of its 4x4 outputs.
    """

    image: ir.Value
    channels: ir.Value
    side: int = TILE
    margin: int = 0

    def pixels(self, e: Emitter, x: Context, tile: ir.Value) -> list[Pixel]:
        """Returns the pixels of a tile, row by row, as addresses in the image."""
        h, w, across = x.h, x.w, x.across
        of_image = e.mul(x.down, across)
        number, place = e.div(tile, of_image), e.mod(tile, of_image)
        top = e.sub(e.mul(e.div(place, across), TILE), self.margin)
        left = e.sub(e.mul(e.mod(place, across), TILE), self.margin)
        columns = [e.add(left, j) for j in range(self.side)]
        pixels = []
        for i in range(self.side):
            row = e.add(top, i)
            start = e.mul(e.add(e.mul(number, h), row), w)
            for column in columns:
                inside = e.builder.and_(e.inside(row, h), e.inside(column, w))
                address = e.at(self.image, e.mul(e.add(start, column), self.channels))
                pixels.append(Pixel(inside, address))
        return pixels


@dataclass(frozen=True)
class Target:
    """The memory that transformed tiles are written to.

    Args:
      start: its address.
      tile_step: the floats to the next tile.
      group_step: the floats to the next group of vectors.
      plane: the floats to the next of the 36 planes.
      together: the vectors of channels that lie side by side in a group.
    """

    start: ir.Value
    tile_step: ir.Value
    group_step: ir.Value
    plane: ir.Value
    together: int = 1


# Returns the vectors of a tile's pixels that start at a channel.
Read = Callable[[ir.Value], list[Values]]


def read_places(e: Emitter, places: Sequence[ir.Value]) -> Read:
    """Returns a reader of the pixels at these addresses."""
    return lambda channel: [e.load(e.at(place, channel)) for place in places]


def _read(e: Emitter, x: Context, pixels: Sequence[Pixel]) -> Read:
    """Returns a reader of the pixels' values, zero outside the image."""
    zeros = x.zeros
    return read_places(e, [e.builder.select(p.inside, p.address, zeros) for p in pixels])


def _read_normalised(e: Emitter, x: Context, pixels: Sequence[Pixel]) -> Read:
    """Returns a reader of the values normalised, after ReLU.

    Outside the image it gives zero, where the offset is zero too.
    """
    values, zeros, factors, offset = _read(e, x, pixels), x.zeros, x.input_factor, x.input_offset
    offsets = [e.builder.select(pixel.inside, offset, zeros) for pixel in pixels]

    def read(channel: ir.Value) -> list[Values]:
        factor = e.load(e.at(factors, channel))
        return [
            e.relu(value * factor + e.load(e.at(place, channel)))
            for value, place in zip(values(channel), offsets, strict=True)
        ]

    return read


def transform_tiles(
    e: Emitter,
    count: ir.Value,
    channels: ir.Value,
    reader: Callable[[ir.Value], Read],
    one_axis: Map,
    to: Target,
) -> None:
    """Emits the transform of ``count`` tiles; ``reader`` gives the values of one."""
    with e.loop(count) as t:
        read, target = reader(t), e.at(to.start, e.mul(t, to.tile_step))
        groups = e.div(channels, to.together * e.lanes)
        with e.loop(groups) as group, e.loop(to.together) as v:
            channel = e.mul(e.add(e.mul(group, to.together), v), e.lanes)
            place = e.add(e.mul(group, to.group_step), e.mul(v, e.lanes))
            e.store_planes(both_axes(one_axis, read(channel)), e.at(target, place), to.plane)
