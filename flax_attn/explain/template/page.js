/* What is shown; kept in the address, so that a view can be bookmarked. */

const ALL = -1;
const isJudged = data.photographs.some((photograph) => photograph.correct !== null);
const start = {
  map: 0,
  scale: data.scale,
  opacity: 60,
  order: Object.keys(data.orders)[0],
  errors: false,
  smooth: true,
};
const state = { ...start };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const lookUp = (name, isValid, convert) => {
    if (given.has(name) && isValid(given.get(name))) state[name] = convert(given.get(name));
  };
  const between = (low, high) => (text) => /^-?\d+$/.test(text) && text >= low && text <= high;
  const oneOf = (table) => (text) => Object.hasOwn(table, text);
  lookUp("map", between(data.maps.length > 1 ? ALL : 0, data.maps.length - 1), Number);
  lookUp("opacity", between(0, 100), Number);
  lookUp("scale", oneOf(SCALES), String);
  lookUp("order", oneOf(data.orders), String);
  lookUp("errors", () => isJudged, (text) => text === "true");
  lookUp("smooth", () => true, (text) => text === "true");
}

function writeAddress() {
  const changed = Object.entries(state).filter(([name, value]) => value !== start[name]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

function change(values) {
  Object.assign(state, values);
  writeAddress();
  update();
}

/* Photographs. */

const cards = data.photographs.map(makeCard);
const cardOf = new Map(cards.map((card) => [card.article, card]));

function makeCard(photograph, index) {
  const name = element("button", { type: "button" });
  const verdict = element("p", { className: "verdict" }, element("b", { textContent: photograph.verdict }));
  if (photograph.correct === false) {
    verdict.append(element("b", { className: "truth", textContent: `is ${photograph.truth}` }));
  }
  const loss = photograph.loss === null ? "" : `loss ${shown(photograph.loss)}`;
  const head = element("header", {}, element("h2", {}, name), element("span", { textContent: loss }));
  const probabilities = element("p", { className: "probabilities" });
  probabilities.textContent = data.classes
    .map((of, k) => `${of} ${(100 * photograph.probabilities[k]).toFixed(1)}%`)
    .join(" · ");
  const cells = element("p", { className: "cells", textContent: photograph.cells });
  cells.hidden = photograph.cells === "";
  const pictures = element("div", { className: "pictures" });
  const article = element("article", {}, head, verdict, probabilities, cells, pictures);
  article.classList.toggle("wrong", photograph.correct === false);
  const card = { photograph, index, article, name, pictures, rows: [], shown: "", isOpen: false };
  const toggle = () => {
    card.isOpen = !card.isOpen;
    arrange(card);
    draw(card);
    article.scrollIntoView({ block: "nearest" });
  };
  name.addEventListener("click", toggle);
  pictures.addEventListener("click", (event) => event.target.closest(".picture") && toggle());
  return card;
}

/* Gives a card the figures it should have, still without their pixels. */
function arrange(card) {
  const isWide = card.isOpen || state.map === ALL;
  const kinds = isWide ? data.maps.map((_, kind) => kind) : [state.map];
  card.article.classList.toggle("wide", isWide);
  card.name.ariaExpanded = String(isWide);
  const { name } = card.photograph;
  card.name.title = isWide ? "" : name;
  card.name.textContent = isWide ? name : shortName(name);
  const wanted = `${isWide} ${kinds}`;
  if (wanted === card.shown) return;
  card.shown = wanted;
  card.rows = card.photograph.pictures.map((_, view) => makeRow(card, view, kinds, isWide));
  card.pictures.replaceChildren(...card.rows.map((row) => row.element));
}

/* The last parts of the paths of a case's pictures, or of the one photograph. */
function shortName(name) {
  const paths = data.views.length > 1 ? name.split("|") : [name];
  return paths.map((path) => path.split("/").pop()).join("|");
}

/* A picture of a case with its maps of these kinds; of a missing one, that it is. */
function makeRow(card, view, kinds, isWide) {
  const picture = card.photograph.pictures[view];
  const row = { picture, maps: [], element: element("div") };
  if (data.views.length > 1) {
    row.element.append(element("h3", { textContent: pictureText(picture, view) }));
  }
  if (picture === null) return row;
  row.maps = kinds.filter((kind) => picture.maps[kind] !== null).map((kind) => makeMap(card, view, kind));
  const beside = isWide || row.maps.length === 0 ? [makePhotograph(picture)] : [];
  const figures = [...beside, ...row.maps.map((map) => map.figure)];
  row.element.append(element("div", { className: "figures" }, ...figures));
  return row;
}

function pictureText(picture, view) {
  const { name } = data.views[view];
  if (picture === null) return `${name}: missing`;
  return picture.weight === null ? name : `${name}: weight ${picture.weight.toFixed(2)}`;
}

function makePhotograph({ outline }) {
  const picture = element("div", { className: "picture" }, element("img", { alt: "photograph" }));
  if (outline !== null) {
    picture.append(element("img", { alt: "outline of the object", src: `data:image/png;base64,${outline}` }));
  }
  return element("figure", {}, picture, element("figcaption", { textContent: "Photograph" }));
}

function makeMap(card, view, kind) {
  const canvas = element("canvas", { role: "img", ariaLabel: data.maps[kind].name });
  const reading = element("div", { className: "reading", hidden: true });
  const numbers = element("div", { className: "numbers" });
  const picture = element("div", { className: "picture mapped" });
  picture.append(element("img", { alt: "" }), canvas, reading);
  picture.addEventListener("pointermove", (event) => read(event, card.index, view, kind, reading));
  picture.addEventListener("pointerleave", () => (reading.hidden = true));
  const name = element("div", { className: "name", textContent: data.maps[kind].name });
  const bar = element("span", { className: "bar", ariaHidden: "true" });
  const caption = element("figcaption", {}, name, bar, numbers);
  const measured = card.photograph.pictures[view].measured?.[kind];
  if (measured) {
    const titles = data.views[view].measures;
    const texts = measured.map((value, i) => `${titles[i]} ${percent(value)}`);
    const parts = texts.map((textContent) => element("span", { textContent }));
    caption.append(element("div", { className: "measures" }, ...parts));
  }
  const figure = element("figure", {}, picture, caption);
  return { view, kind, figure, canvas, numbers, painted: "" };
}

/* Fills in what can be seen, and has changed. */
function draw(card) {
  if (!card.isVisible) return;
  for (const row of card.rows) {
    for (const image of row.element.querySelectorAll("img:not([src])")) {
      image.src = `data:image/jpeg;base64,${row.picture.jpeg}`;
    }
  }
  const wanted = `${state.scale} ${state.smooth}`;
  const maps = card.rows.flatMap((row) => row.maps);
  for (const each of maps.filter((one) => one.painted !== wanted)) {
    const kind = data.maps[each.kind];
    const map = mapOf(card.index, each.view, each.kind);
    const scale = SCALES[state.scale].of(map, kind);
    paint(each.canvas, map, scale, kind.shape, { smooth: state.smooth, colours });
    const values = [0, 0.5, 1].map((position) => shown(scale.value(position)));
    each.numbers.replaceChildren(...values.map((text) => element("span", { textContent: text })));
    each.painted = wanted;
  }
}

/* The value under the pointer. */
function read(event, photograph, view, kind, reading) {
  const map = mapOf(photograph, view, kind);
  const value = map.values[cellUnder(event, data.maps[kind].shape)];
  reading.textContent = `${shown(value)}, above ${(100 * share(map, value)).toFixed(1)}% of the map`;
  reading.hidden = false;
}

function percent(value) {
  return value === null ? "undefined" : `${(100 * value).toFixed(0)}%`;
}

/* Controls. */

const ORDERS = {
  loss: "largest loss first",
  confidence: "least confident first",
  name: "name",
};

function fillControls() {
  const tabs = data.maps.map((map, kind) => [kind, map.name]);
  if (tabs.length > 1) tabs.push([ALL, "All"]);
  for (const [kind, name] of tabs) {
    const radio = element("input", { type: "radio", name: "map", value: kind });
    radio.addEventListener("change", () => change({ map: kind }));
    find("maps").append(element("label", {}, radio, name));
  }
  const options = (names) => Object.entries(names).map(([value, text]) => new Option(text, value));
  find("scale").append(...Object.entries(SCALES).map(([id, { name }]) => new Option(name, id)));
  find("order").append(...options(ORDERS).filter((option) => option.value in data.orders));
  const errors = data.photographs.filter((photograph) => photograph.correct === false).length;
  find("filter").append(` (${errors})`);
  find("filter").hidden = !isJudged;
  for (const [id, read] of Object.entries({
    scale: (control) => control.value,
    order: (control) => control.value,
    opacity: (control) => Number(control.value),
    errors: (control) => control.checked,
    smooth: (control) => control.checked,
  })) {
    find(id).addEventListener("input", (event) => change({ [id]: read(event.target) }));
  }
  document.documentElement.style.setProperty("--colours", gradient(colours));
}

function showControls() {
  document.querySelector(`#maps input[value="${state.map}"]`).checked = true;
  for (const id of ["scale", "order", "opacity"]) find(id).value = state[id];
  for (const id of ["errors", "smooth"]) find(id).checked = state[id];
  find("percent").textContent = `${state.opacity}%`;
  find("meaning").textContent = SCALES[state.scale].meaning;
  document.documentElement.style.setProperty("--opacity", state.opacity / 100);
}

let arranged = "";

function update() {
  showControls();
  const wanted = data.orders[state.order]
    .map((index) => cards[index])
    .filter((card) => !state.errors || card.photograph.correct === false);
  const key = String(wanted.map((card) => card.index));
  if (key !== arranged) find("photographs").replaceChildren(...wanted.map((card) => card.article));
  arranged = key;
  find("none").hidden = wanted.length > 0;
  for (const card of wanted) {
    arrange(card);
    draw(card);
  }
}

let opacityBefore = start.opacity;

const KEYS = {
  s: () => {
    const names = Object.keys(SCALES);
    change({ scale: names[(names.indexOf(state.scale) + 1) % names.length] });
  },
  o: () => {
    if (state.opacity > 0) opacityBefore = state.opacity;
    change({ opacity: state.opacity > 0 ? 0 : opacityBefore });
  },
  e: () => isJudged && change({ errors: !state.errors }),
  "+": () => change({ opacity: Math.min(100, state.opacity + 10) }),
  "-": () => change({ opacity: Math.max(0, state.opacity - 10) }),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const map = event.key === "0" ? ALL : Number(event.key) - 1;
  if (/^\d$/.test(event.key) && document.querySelector(`#maps input[value="${map}"]`)) {
    change({ map });
  } else if (Object.hasOwn(KEYS, event.key)) {
    KEYS[event.key]();
  }
});

fillControls();
readAddress();
update();
addEventListener("hashchange", () => {
  Object.assign(state, start);
  readAddress();
  update();
});
const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const card = cardOf.get(entry.target);
      card.isVisible = entry.isIntersecting;
      draw(card);
    }
  },
  { rootMargin: "400px" },
);
for (const card of cards) observer.observe(card.article);
