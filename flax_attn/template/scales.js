"use strict";

/* What pages with maps have in common: scales, colours, and maps painted with them. */

const find = (id) => document.getElementById(id);

function bytes(base64) {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/* Scales: those of colour_scale in figures.py. `position` takes a value to [0, 1], `value` back. */

const DECADES = 6;

const line = (low, high) => ({
  position: (v) => (high > low ? (v - low) / (high - low) : 0),
  value: (p) => low + p * (high - low),
});

const SCALES = {
  linear: {
    name: "linear",
    meaning: "From the smallest to the largest value of each map.",
    of: (map) => line(map.low, map.high),
  },
  shared: {
    name: "linear, shared",
    meaning: "From the smallest to the largest value that this kind of map has in any photograph.",
    of: (map, kind) => line(...kind.range),
  },
  log: {
    name: "logarithmic",
    meaning: `The logarithm of the value, at most ${DECADES} powers of ten below the map's largest.`,
    of: (map) => {
      if (map.high <= 0) return line(map.low, map.high);
      const low = Math.max(map.leastPositive, map.high / 10 ** DECADES);
      const ratio = map.high / low;
      return {
        position: (v) => (ratio > 1 ? Math.log(Math.max(v, low) / low) / Math.log(ratio) : 0),
        value: (p) => low * ratio ** p,
      };
    },
  },
  rank: {
    name: "rank",
    meaning: "The share of the map's other locations that have less; the middle colour is the median.",
    of: (map) => {
      const others = map.ordered.length - 1;
      return {
        position: (v) => share(map, v),
        value: (p) => map.ordered[Math.round(p * others)],
      };
    },
  },
};

/* The share of the other locations that have less than `v`. */
function share(map, v) {
  let [low, high] = [0, map.ordered.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (map.ordered[middle] < v) low = middle + 1;
    else high = middle;
  }
  return low / Math.max(map.ordered.length - 1, 1);
}

function shown(value) {
  const isPlain = value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5);
  return isPlain ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

/* Maps. */

/* What scales ask of a map. */
function measure(values) {
  const ordered = values.slice().sort();
  const leastPositive = ordered.find((v) => v > 0);
  return { values, ordered, leastPositive, low: ordered[0], high: ordered[ordered.length - 1] };
}

/* The colours as a gradient, for legends. */
function gradient(colours) {
  const stops = Array.from({ length: 33 }, (_, i) => 3 * Math.min(255, 8 * i));
  const colour = (at) => `rgb(${colours.subarray(at, at + 3).join(" ")})`;
  return `linear-gradient(to right, ${stops.map(colour).join(", ")})`;
}

/* Where the middles of `size` pixels lie among `cells` cells: the two neighbours and the second's
   weight. */
function neighbours(size, cells) {
  return Array.from({ length: size }, (_, i) => {
    const place = Math.min(Math.max(((i + 0.5) * cells) / size - 0.5, 0), cells - 1);
    const first = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    return [first, Math.min(first + 1, cells - 1), place - first];
  });
}

/* The positions of a map's cells, enlarged bilinearly as figures.overlay does. */
function enlarge(positions, [h, w], size) {
  const enlarged = new Float32Array(size * size);
  const across = neighbours(size, w);
  neighbours(size, h).forEach(([top, bottom, down], y) => {
    across.forEach(([left, right, along], x) => {
      const at = (row, column) => positions[row * w + column];
      const above = at(top, left) * (1 - along) + at(top, right) * along;
      const below = at(bottom, left) * (1 - along) + at(bottom, right) * along;
      enlarged[y * size + x] = above * (1 - down) + below * down;
    });
  });
  return enlarged;
}

/* Draws a map's colours, between the middles of its cells or cell by cell. */
function paint(canvas, map, scale, shape, { smooth, colours }) {
  let positions = Float32Array.from(map.values, scale.position);
  let [height, width] = shape;
  if (smooth) {
    height = width = Math.max(224, ...shape);
    positions = enlarge(positions, shape, width);
  }
  Object.assign(canvas, { width, height, className: smooth ? "" : "cells" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  positions.forEach((p, i) => {
    const colour = 3 * Math.min(255, Math.floor(p * 256));
    image.data.set(colours.subarray(colour, colour + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

/* The cell of a map that a pointer is over. */
function cellUnder(event, [h, w]) {
  const box = event.currentTarget.getBoundingClientRect();
  const cell = (offset, extent, n) => Math.max(0, Math.min(n - 1, Math.floor((offset / extent) * n)));
  const row = cell(event.clientY - box.top, box.height, h);
  return row * w + cell(event.clientX - box.left, box.width, w);
}
