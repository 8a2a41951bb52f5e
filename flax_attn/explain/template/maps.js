/* The maps of this page, decoded when they are first looked at. */

const data = JSON.parse(document.getElementById("data").textContent);
const colours = bytes(data.colours);
const decoded = new Map();

function mapOf(photograph, view, kind) {
  const key = `${photograph} ${view} ${kind}`;
  if (!decoded.has(key)) {
    const picture = data.photographs[photograph].pictures[view];
    decoded.set(key, measure(new Float32Array(bytes(picture.maps[kind]).buffer)));
  }
  return decoded.get(key);
}
