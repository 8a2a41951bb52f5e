/* Photographs scaled as Pillow scales them, to the same bytes: bilinear with antialiasing, weights
   in fixed point. What of a photograph is scaled is said in data/decode.py and data/framing.py.

   A photograph is { width, height, rows(top, count) }, where rows returns RGBA bytes: it is read in
   strips, so that no canvas is larger than a browser allows. */

const PRECISION = 22;
const ONE = 1 << PRECISION;
const HALF = 1 << (PRECISION - 1);
const STRIP = 256;

/* Which of `count` pixels between `from` and `to` each of `size` pixels is made of, and their
   weights. */
export function weights(count, from, to, size) {
  const scale = Math.fround(to - from) / size;
  const reach = Math.max(scale, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = from + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), count);
    const shares = [];
    let sum = 0;
    for (let x = first; x < last; x++) {
      shares.push(Math.max(1 - Math.abs((x - centre + 0.5) * (1 / reach)), 0));
      sum += shares[shares.length - 1];
    }
    const fixed = shares.map((share) => Math.trunc(0.5 + (sum === 0 ? share : share / sum) * ONE));
    return { first, fixed: Int32Array.from(fixed) };
  });
}

/* Of a photograph the box [left, top, right, bottom] as a square, RGB. Each pass rounds to bytes, so
   that their order counts: it is that of Pillow 13. */
export function resample(photograph, box, size) {
  const { width, height } = photograph;
  const [left, top, right, bottom] = box.map(Math.fround);
  const across = left !== 0 || right !== width || width !== size;
  const down = top !== 0 || bottom !== height || height !== size;
  const columns = across ? weights(width, left, right, size) : unchanged(size);
  const rows = down ? weights(height, top, bottom, size) : unchanged(size);
  if (height > size && height - size > 2 * (width - size)) {
    return narrow(shorten(photograph, rows), 3, width, columns);
  }
  const start = rows[0].first;
  const end = rows[size - 1].first + rows[size - 1].fixed.length;
  const narrowed = new Uint8Array((end - start) * size * 3);
  for (let y = start; y < end; y += STRIP) {
    const strip = photograph.rows(y, Math.min(STRIP, end - y));
    narrowed.set(narrow(strip, 4, width, columns), (y - start) * size * 3);
  }
  const strips = (top, count) => narrowed.subarray((top - start) * size * 3, (top - start + count) * size * 3);
  return shorten({ width: size, rows: strips }, rows, 3);
}

function unchanged(size) {
  return Array.from({ length: size }, (_, first) => ({ first, fixed: Int32Array.of(ONE) }));
}

/* Rows of pixels of some channels, each made as long as there are columns, RGB. */
function narrow(pixels, channels, width, columns) {
  const made = new Uint8Array((pixels.length / channels / width) * columns.length * 3);
  let place = 0;
  for (let row = 0; row < pixels.length; row += channels * width) {
    for (const { first, fixed } of columns) {
      let [red, green, blue] = [HALF, HALF, HALF];
      for (let i = 0, at = row + channels * first; i < fixed.length; i++, at += channels) {
        red += pixels[at] * fixed[i];
        green += pixels[at + 1] * fixed[i];
        blue += pixels[at + 2] * fixed[i];
      }
      made[place++] = clipped(red);
      made[place++] = clipped(green);
      made[place++] = clipped(blue);
    }
  }
  return made;
}

/* As many rows as asked for, RGB, of a photograph whose pixels have some channels. */
function shorten({ width, rows }, wanted, channels = 4) {
  const made = new Uint8Array(wanted.length * width * 3);
  const sums = new Int32Array(width * 3);
  wanted.forEach(({ first, fixed }, y) => {
    const pixels = rows(first, fixed.length);
    sums.fill(HALF);
    for (let i = 0, at = 0; i < fixed.length; i++) {
      for (let x = 0; x < sums.length; x += 3, at += channels) {
        sums[x] += pixels[at] * fixed[i];
        sums[x + 1] += pixels[at + 1] * fixed[i];
        sums[x + 2] += pixels[at + 2] * fixed[i];
      }
    }
    for (let x = 0; x < sums.length; x++) made[y * sums.length + x] = clipped(sums[x]);
  });
  return made;
}

/* Rounded weights may add up to a little more than one. */
function clipped(sum) {
  return Math.min(sum >> PRECISION, 255);
}

/* How much smaller Python reads a JPEG: by the largest power of two that leaves twice the size. */
export function jpegFactor({ width, height }, images) {
  const least = Math.ceil((2 * stored(images)) / (images.centre_crop ?? 1));
  const most = Math.min(Math.floor(width / least), Math.floor(height / least));
  return [8, 4, 2].find((factor) => most >= factor) ?? 1;
}

/* A photograph made smaller by means of squares, which is nearly what JPEG's decoder does when it is
   asked for less. */
export function reduced(photograph, factor) {
  const width = Math.ceil(photograph.width / factor);
  const height = Math.ceil(photograph.height / factor);
  const rows = (top, count) => {
    const deep = Math.min(count * factor, photograph.height - top * factor);
    const pixels = photograph.rows(top * factor, deep);
    const made = new Uint8ClampedArray(count * width * 4);
    for (let y = 0; y < count; y++) {
      for (let x = 0; x < width; x++) {
        const right = Math.min((x + 1) * factor, photograph.width);
        const bottom = Math.min((y + 1) * factor, deep);
        const amount = (right - x * factor) * (bottom - y * factor);
        let [red, green, blue] = [0, 0, 0];
        for (let j = y * factor; j < bottom; j++) {
          for (let i = x * factor; i < right; i++) {
            const at = 4 * (j * photograph.width + i);
            red += pixels[at];
            green += pixels[at + 1];
            blue += pixels[at + 2];
          }
        }
        made.set([red, green, blue, 255 * amount].map((sum) => sum / amount), 4 * (y * width + x));
      }
    }
    return made;
  };
  return { width, height, rows };
}

const stored = (images) => images.shape[1] + (images.crop_margin ?? 0);

/* What a network sees of a photograph, RGB: `images` is the input's entry in export.json. */
export function square(photograph, images) {
  const { width, height } = photograph;
  const [, size] = images.shape;
  const side = Math.min(width, height) * (images.centre_crop ?? 1);
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  const box = images.resize === "crop" ? [left, top, left + side, top + side] : [0, 0, width, height];
  const whole = resample(photograph, box, stored(images));
  return stored(images) > size ? centre(whole, stored(images), size) : whole;
}

/* The window of `size` in the middle; an odd pixel is left below it. */
function centre(whole, outer, size) {
  const start = Math.floor((outer - size) / 2);
  const window = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y++) {
    const from = 3 * ((y + start) * outer + start);
    window.set(whole.subarray(from, from + 3 * size), 3 * size * y);
  }
  return window;
}
