/* Reads photographs and runs the network, so that the page stays alive meanwhile. */

import * as ort from "./runtime/ort.wasm.min.mjs";
import { jpegFactor, reduced, square } from "./resample.js";

ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
// Threads share memory, which a browser allows only where the server asks for isolation.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 8) : 1;

let images;
let session;

async function open(description) {
  images = description;
  const model = await fetchWhole("model.onnx");
  session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  postMessage({ kind: "ready", threads: ort.env.wasm.numThreads });
}

/* The bytes of a file; says on the way how many there are already. */
async function fetchWhole(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status}`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let loaded = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    loaded += value.length;
    postMessage({ kind: "progress", loaded, total });
  }
}

/* A photograph as data/decode.py reads it: upright, colour profiles ignored, laid over white. */
async function decode(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const rows = (top, count) => {
    canvas.height = count; // this clears it, too
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, width, count).data;
  };
  return { width, height, rows, close: () => bitmap.close() };
}

async function isJpeg(blob) {
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  return start[0] === 0xff && start[1] === 0xd8;
}

async function look(blob) {
  const begun = performance.now();
  const photograph = await decode(blob);
  const factor = (await isJpeg(blob)) ? jpegFactor(photograph, images) : 1;
  const seen = square(factor > 1 ? reduced(photograph, factor) : photograph, images);
  photograph.close();
  const read = performance.now();
  const [, size] = images.shape;
  const given = new ort.Tensor("uint8", seen, [1, size, size, 3]);
  const said = await session.run({ images: given });
  const outputs = Object.fromEntries(
    Object.entries(said).map(([name, value]) => [name, { data: value.data, dims: value.dims.slice(1) }]),
  );
  const times = { read: read - begun, run: performance.now() - read };
  return { pixels: seen, outputs, times };
}

const WORK = {
  open: ({ images }) => open(images),
  look: async ({ id, blob }) => postMessage({ kind: "result", id, ...(await look(blob)) }),
};

// One after the other, in the order in which they came.
let last = Promise.resolve();
addEventListener("message", ({ data }) => {
  last = last
    .then(() => WORK[data.kind](data))
    .catch((error) => postMessage({ kind: "failed", id: data.id, name: error.name, reason: String(error.message ?? error) }));
});
