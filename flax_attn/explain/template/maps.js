/* The maps of this page, decoded when they are first looked at. */

const data = JSON.parse(document.getElementById("data").textContent);
const colours = bytes(data.colours);
const decoded = new Map();

function mapOf(photograph, kind) {
  const key = `${photograph} ${kind}`;
  if (!decoded.has(key)) {
    const values = new Float32Array(bytes(data.photographs[photograph].maps[kind]).buffer);
    decoded.set(key, measure(values));
  }
  return decoded.get(key);
}
