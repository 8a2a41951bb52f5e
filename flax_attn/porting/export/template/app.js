/* What a person gives, chooses and is told. */

const state = { map: 0, class: ALL, head: 0, scale: "linear", opacity: 60, smooth: true };
const cards = [];
let network = null;
let colours = null;
let worker = null;

function say(text) {
  find("status").textContent = text;
}

function fail(text) {
  document.body.classList.add("failed");
  find("loading").hidden = true;
  find("about").textContent = text;
  find("about").role = "alert";
}

/* The network. */

async function start() {
  if (location.protocol === "file:") {
    fail("Browsers run this page only from a server: type python -m http.server in its folder, then open localhost, port 8000.");
    return;
  }
  const response = await fetch("network.json");
  if (!response.ok) throw new Error(`network.json: the server answers ${response.status}`);
  network = await response.json();
  network.gates = gatesOf(network);
  colours = bytes(network.colours);
  const all = network.classes;
  document.title = find("title").textContent = all.length > 4 ? `One of ${all.length} classes?` : `${all.join(" or ")}?`;
  fillControls();
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", ({ data }) => HEARD[data.kind](data));
  worker.addEventListener("error", (event) => fail(`The network cannot be run here: ${event.message ?? "this browser is too old"}.`));
  worker.postMessage({ kind: "open", images: network.images });
}

const HEARD = {
  progress: ({ loaded, total }) => {
    if (total >= loaded) find("loading").value = loaded / total;
    find("about").textContent = `The network is being loaded: ${(loaded / 1e6).toFixed(0)} MB.`;
  },
  ready: () => {
    find("loading").hidden = true;
    find("about").textContent = network.gates.length
      ? "Give it photographs: it says what is on them, and shows where it looks. Everything is computed here."
      : "Give it photographs: it says what is on them. Everything is computed here.";
    document.body.dataset.ready = "true";
  },
  result: ({ id, pixels, outputs, times }) => {
    const card = cards.find((one) => one.id === id);
    if (!card) return; // removed meanwhile
    const text = showResult(card, network, { pixels, outputs, times });
    say(`${card.name}: ${text}`);
    // A new photograph may move the ends of the shared scale, but of no other.
    update(state.scale === "shared" ? cards : [card]);
  },
  failed: ({ id, name, reason }) => {
    if (id === undefined) {
      fail(`The network cannot be run: ${reason}.`);
      return;
    }
    const card = cards.find((one) => one.id === id);
    // What a browser cannot decode is an InvalidStateError, in words of its own.
    const isNoImage = name === "InvalidStateError" || name === "EncodingError";
    const text = isNoImage ? "no image that this browser can read; give a JPEG, PNG or WebP" : `cannot be looked at: ${reason}`;
    if (card) refuseOn(card, text);
    say(`${card?.name ?? "a photograph"}: ${text}`);
  },
};

/* Photographs. */

let given = 0;

function take(files) {
  const some = [...files];
  if (!some.length || !worker) return;
  for (const blob of some) {
    const card = makeCard(blob.name || "pasted photograph", remove);
    card.id = given++;
    cards.unshift(card);
    worker.postMessage({ kind: "look", id: card.id, blob });
  }
  say(some.length === 1 ? `looking at ${cards[0].name}` : `looking at ${some.length} photographs`);
  arrange();
}

function remove(card) {
  const place = cards.indexOf(card);
  cards.splice(place, 1);
  say(`${card.name} removed`);
  arrange();
  update();
  const next = cards[Math.min(place, cards.length - 1)];
  (next ? next.article.querySelector(".remove") : find("files")).focus();
}

function arrange() {
  find("photographs").replaceChildren(...cards.map((card) => card.article));
  find("help").hidden = !cards.length;
  find("controls").hidden = !cards.some((card) => card.result) || !network.gates.length;
}

/* Draws the maps of some cards anew, with the ends of the shared scale over all photographs. */
function update(some = cards) {
  showControls();
  const seen = cards.filter((card) => card.result);
  find("controls").hidden = !seen.length || !network.gates.length;
  const ranges = Object.fromEntries(network.gates.map(({ output }) => [output, endsOf(seen, output)]));
  for (const card of some.filter((one) => one.result)) drawFigures(card, network, state, ranges);
}

function endsOf(seen, output) {
  let [low, high] = [Infinity, -Infinity];
  for (const { result } of seen) {
    for (const value of result.outputs[output].data) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return [low, high];
}

/* Controls. */

function change(values) {
  Object.assign(state, values);
  if (Object.keys(values).every((name) => name === "opacity")) showControls();
  else update();
}

function fillControls() {
  const { gates, classes } = network;
  const tabs = gates.map(({ name }, place) => [place, name]);
  if (tabs.length > 1) tabs.push([ALL, "All"]);
  for (const [place, name] of tabs) {
    const radio = element("input", { type: "radio", name: "map", value: place });
    radio.addEventListener("change", () => change({ map: place }));
    find("maps").append(element("label", {}, radio, name));
  }
  const most = (axis) => Math.max(1, ...gates.map((gate) => gate[axis]));
  find("class").append(new Option("the likeliest", ALL), ...classes.map((name, k) => new Option(name, k)));
  find("classes").hidden = most("classes") === 1;
  find("head").append(...Array.from({ length: most("heads") }, (_, i) => new Option(i + 1, i)));
  find("heads").hidden = most("heads") === 1;
  find("scale").append(...Object.entries(SCALES).map(([id, { name }]) => new Option(name, id)));
  find("explained").hidden = find("keys").hidden = !gates.length;
  for (const [id, read] of Object.entries({
    class: (control) => Number(control.value),
    head: (control) => Number(control.value),
    scale: (control) => control.value,
    opacity: (control) => Number(control.value),
    smooth: (control) => control.checked,
  })) {
    find(id).addEventListener("input", (event) => change({ [id]: read(event.target) }));
  }
  document.documentElement.style.setProperty("--colours", gradient(colours));
}

function showControls() {
  const radio = document.querySelector(`#maps input[value="${state.map}"]`);
  if (radio) radio.checked = true;
  for (const id of ["class", "head", "scale", "opacity"]) find(id).value = state[id];
  find("smooth").checked = state.smooth;
  find("percent").textContent = `${state.opacity}%`;
  find("meaning").textContent = SCALES[state.scale].meaning;
  document.documentElement.style.setProperty("--opacity", state.opacity / 100);
}

let opacityBefore = state.opacity;

const KEYS = {
  s: () => {
    const names = Object.keys(SCALES);
    change({ scale: names[(names.indexOf(state.scale) + 1) % names.length] });
  },
  o: () => {
    if (state.opacity > 0) opacityBefore = state.opacity;
    change({ opacity: state.opacity > 0 ? 0 : opacityBefore });
  },
  "+": () => change({ opacity: Math.min(100, state.opacity + 10) }),
  "-": () => change({ opacity: Math.max(0, state.opacity - 10) }),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  if (find("controls").hidden || find("viewfinder").open) return;
  const map = event.key === "0" ? ALL : Number(event.key) - 1;
  if (/^\d$/.test(event.key) && document.querySelector(`#maps input[value="${map}"]`)) {
    change({ map });
  } else if (Object.hasOwn(KEYS, event.key)) {
    KEYS[event.key]();
  }
});

/* Ways in: files, drops, pastes, the camera. */

for (const id of ["files", "capture"]) {
  find(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // the same file may be given again
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragged");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragged");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else say("that was no file; drop photographs from a folder");
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
  else say("there is no photograph to paste");
});
find("clear").addEventListener("click", () => {
  cards.length = 0;
  arrange();
  say("all photographs removed");
  find("files").focus();
});

find("camera").addEventListener("click", async () => {
  // Without a secure address there is no camera for scripts; telephones then open their own.
  if (!navigator.mediaDevices?.getUserMedia) {
    find("capture").click();
    return;
  }
  try {
    const size = { width: { ideal: 1920 }, height: { ideal: 1080 } };
    find("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", ...size } });
    find("viewfinder").showModal();
    await find("video").play();
  } catch (error) {
    say(error.name === "NotAllowedError" ? "the camera was not allowed" : `no camera: ${error.message}`);
  }
});
find("take").addEventListener("click", async () => {
  const video = find("video");
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/png" });
  find("viewfinder").close();
  take([new File([blob], `camera ${new Date().toLocaleTimeString()}`)]);
});
find("leave").addEventListener("click", () => find("viewfinder").close());
find("viewfinder").addEventListener("close", () => {
  find("video").srcObject?.getTracks().forEach((track) => track.stop());
  find("video").srcObject = null;
});

start().catch((error) => fail(`The network cannot be loaded: ${error.message}.`));
