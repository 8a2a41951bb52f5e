/* A photograph each: its name, what the network says, and its maps. */

const PREFIX = "attention_";
const ALL = -1;
const SHOWN = 5; // classes, before the rest is folded

/* Map names in the order of the outputs, such as "pool3", with the axes before height and width. */
function gatesOf(network) {
  return Object.entries(network.outputs)
    .filter(([output]) => output.startsWith(PREFIX))
    .map(([output, { shape, axes }]) => {
      const count = (axis) => (axes.includes(axis) ? shape[axes.indexOf(axis)] : 1);
      return {
        name: output.slice(PREFIX.length),
        output,
        shape: shape.slice(-2),
        classes: count("class"),
        heads: count("head"),
      };
    });
}

function makeCard(name, remove) {
  const close = element("button", { type: "button", textContent: "×", title: `Remove ${name}` });
  close.ariaLabel = `Remove ${name}`;
  close.className = "remove";
  const heading = element("h2", { textContent: name, title: name });
  const verdict = element("p", { className: "verdict", textContent: "waiting" });
  const figures = element("div", { className: "figures" });
  const bars = element("div", { className: "bars" });
  const article = element("article", { ariaLabel: name }, element("header", {}, heading, close), verdict, figures, bars);
  article.classList.add("waiting");
  const card = { name, article, verdict, figures, bars, result: null, measured: new Map() };
  close.addEventListener("click", () => remove(card));
  return card;
}

function refuseOn(card, reason) {
  card.article.classList.remove("waiting");
  card.article.classList.add("wrong");
  card.verdict.textContent = reason;
}

/* Puts what the network says on a card; returns it in a few words. */
function showResult(card, network, result) {
  card.article.classList.remove("waiting");
  card.result = result;
  card.photograph = photographOf(result.pixels, network.images.shape[1]);
  const probabilities = result.outputs.probabilities.data;
  const decided = decide(network, probabilities);
  const names = network.classes.filter((_, k) => decided[k]);
  const text = names.join(", ") || "none of the labels";
  const exclusive = network.task === "multiclass" && names.length === 1;
  const surely = exclusive ? percentage(probabilities[network.classes.indexOf(names[0])]) : "";
  card.verdict.replaceChildren(element("b", { textContent: text }), surely);
  showBars(card, network, probabilities, decided);
  return exclusive ? `${text}, ${surely}` : text;
}

/* Whether the photograph is said to have each class: at thresholds, where there are any. */
function decide({ task, classes, thresholds = {} }, probabilities) {
  const likeliest = probabilities.indexOf(Math.max(...probabilities));
  const decided = classes.map((name, k) => (task === "multilabel" ? probabilities[k] > 0.5 : k === likeliest));
  for (const [name, threshold] of Object.entries(thresholds)) {
    const k = classes.indexOf(name);
    decided[k] = probabilities[k] > threshold;
    if (task === "multiclass") decided[1 - k] = !decided[k]; // only two classes have one
  }
  return decided;
}

function percentage(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showBars(card, { classes, thresholds = {} }, probabilities, decided) {
  const order = classes.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a]);
  const rows = order.map((k) => {
    const share = probabilities[k];
    const fill = element("span", { className: "fill" });
    fill.style.setProperty("--share", share);
    const track = element("span", { className: "track", ariaHidden: "true" }, fill);
    const threshold = thresholds[classes[k]];
    const name = element("span", { className: "class", textContent: classes[k] });
    if (threshold !== undefined) {
      const tick = element("span", { className: "tick" });
      tick.style.setProperty("--share", threshold);
      track.append(tick);
      const side = decided[k] ? "above" : "not above";
      name.append(element("small", { textContent: ` ${side} the threshold ${percentage(threshold)}` }));
    }
    const row = element("li", {}, name, element("span", { className: "share", textContent: percentage(share) }), track);
    row.classList.toggle("decided", decided[k]);
    return row;
  });
  const list = (some) => element("ul", { ariaLabel: "Probabilities" }, ...some);
  card.bars.replaceChildren(list(rows.slice(0, SHOWN)));
  if (rows.length > SHOWN) {
    const summary = element("summary", { textContent: `${rows.length - SHOWN} more classes` });
    card.bars.append(element("details", {}, summary, list(rows.slice(SHOWN))));
  }
}

/* The pixels that the network saw. */
function photographOf(pixels, size) {
  const canvas = element("canvas", { width: size, height: size, className: "photograph" });
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    image.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function copyOf(photograph, label) {
  const { width, height } = photograph;
  const canvas = element("canvas", { width, height, className: "photograph" });
  canvas.getContext("2d").drawImage(photograph, 0, 0);
  if (label) Object.assign(canvas, { role: "img", ariaLabel: label });
  else canvas.ariaHidden = "true";
  return canvas;
}

/* The map of a gate, of a class and head where it has several, with what scales ask of it. */
function mapOf(card, gate, k, head) {
  const key = `${gate.output} ${k} ${head}`;
  if (!card.measured.has(key)) {
    const [h, w] = gate.shape;
    const start = (Math.min(k, gate.classes - 1) * gate.heads + head) * h * w;
    const { data } = card.result.outputs[gate.output];
    card.measured.set(key, measure(data.slice(start, start + h * w)));
  }
  return card.measured.get(key);
}

/* Gives a card the figures it should have; `shown` says which, and how they are drawn. */
function drawFigures(card, network, shownAs, ranges) {
  const { gates, classes } = network;
  const chosen = shownAs.map === ALL ? gates : gates.slice(shownAs.map, shownAs.map + 1);
  card.article.classList.toggle("wide", shownAs.map === ALL && gates.length > 1);
  const probabilities = card.result.outputs.probabilities.data;
  const likeliest = probabilities.indexOf(Math.max(...probabilities));
  const k = shownAs.class === ALL ? likeliest : shownAs.class;
  const figures = chosen.map((gate) => {
    const ofClass = gate.classes > 1 ? ` of ${classes[k]}` : "";
    const ofHead = gate.heads > 1 ? ` by head ${shownAs.head + 1}` : "";
    const map = mapOf(card, gate, k, shownAs.head);
    return makeFigure(card, gate, map, `${gate.name}${ofClass}${ofHead}`, shownAs, ranges[gate.output]);
  });
  if (chosen.length !== 1) {
    const picture = element("div", { className: "picture" }, copyOf(card.photograph, `${card.name} as the network sees it`));
    const caption = element("figcaption", { textContent: "as the network sees it" });
    figures.unshift(element("figure", {}, picture, caption));
  }
  card.figures.replaceChildren(...figures);
}

function makeFigure(card, gate, map, title, { scale: chosen, smooth }, range) {
  const canvas = element("canvas", { role: "img", ariaLabel: `Map ${title} over ${card.name}` });
  const scale = SCALES[chosen].of(map, { range });
  const reading = element("div", { className: "reading", hidden: true });
  const picture = element("div", { className: "picture mapped" }, copyOf(card.photograph, ""), canvas, reading);
  paint(canvas, map, scale, gate.shape, { smooth, colours });
  canvas.classList.add("map");
  picture.addEventListener("pointermove", (event) => {
    const value = map.values[cellUnder(event, gate.shape)];
    reading.textContent = `${shown(value)}, above ${(100 * share(map, value)).toFixed(1)}% of the map`;
    reading.hidden = false;
  });
  picture.addEventListener("pointerleave", () => (reading.hidden = true));
  const values = [0, 0.5, 1].map((at) => element("span", { textContent: shown(scale.value(at)) }));
  const numbers = element("div", { className: "numbers" }, ...values);
  const bar = element("span", { className: "bar", ariaHidden: "true" });
  return element("figure", {}, picture, element("figcaption", {}, title, bar, numbers));
}
