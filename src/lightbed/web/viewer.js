// Draws what networks said of an image. Threshold, opacity, tabs, runs and classes change what is drawn at once; no
// network is asked again. `element`, `props` and `watch` are Gradio's.
const SVG = "http://www.w3.org/2000/svg";
const PLURALS = { person: "people", mouse: "mice", sheep: "sheep", knife: "knives", skis: "skis", scissors: "scissors" };
const at = (name) => element.querySelector(name);
const [tabs, runs, classes, panels] = [".tb-tabs", ".tb-runs", ".tb-classes", ".tb-panels"].map(at);
const threshold = at(".tb-threshold input");
const opacity = at(".tb-opacity input");
const drawn = new Map(); // decoded pictures by address

let told = { kinds: [], panels: [] };
let kind = null;
let touched = false; // the threshold, by its user
const hiddenRuns = new Set();
const hiddenClasses = new Set();

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function plural(name, count) {
  if (!/^\p{L}[\p{L} _-]*$/u.test(name)) return `${count} × ${name}`;
  if (count === 1) return `1 ${name}`;
  if (Object.hasOwn(PLURALS, name)) return `${count} ${PLURALS[name]}`;
  if (/(s|x|ch|sh)$/.test(name)) return `${count} ${name}es`;
  if (/[^aeiou]y$/.test(name)) return `${count} ${name.slice(0, -1)}ies`;
  return `${count} ${name}s`;
}

const percent = (part) => (part >= 0.0995 || part === 0 ? `${Math.round(part * 100)} %` : `${(part * 100).toFixed(1)} %`);
const least = () => Number(threshold.value);
const shown = () => told.panels.filter((panel) => panel.kinds.includes(kind) && !hiddenRuns.has(panel.title));
const visible = (panel, one) => one.score >= least() && !hiddenClasses.has(panel.classes[one.label].name);

// -- tabs, runs and classes --------------------------------------------------------------------------------------------

function drawTabs() {
  tabs.replaceChildren(...told.kinds.map(([name, title]) => {
    const tab = make("button", { type: "button", role: "tab", "aria-selected": name === kind, tabindex: name === kind ? 0 : -1 }, title);
    tab.onclick = () => choose(name);
    return tab;
  }));
}

function choose(name) {
  kind = name;
  drawTabs();
  draw();
}

tabs.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const names = told.kinds.map(([name]) => name);
  choose(names[(names.indexOf(kind) + step + names.length) % names.length]);
  tabs.querySelector('[aria-selected="true"]').focus();
});

function toggles(place, entries, hidden) {
  const content = JSON.stringify(entries);
  if (place.dataset.content === content) return; // what is used stays as it is
  place.dataset.content = content;
  const focused = document.activeElement?.dataset?.toggle;
  place.replaceChildren(...entries.map(({ key, text, colour }) => {
    const box = make("input", { type: "checkbox", "data-toggle": key });
    box.checked = !hidden.has(key);
    box.onchange = () => {
      box.checked ? hidden.delete(key) : hidden.add(key);
      draw();
    };
    const label = make("label", {}, box);
    if (colour) label.append(make("i", { style: `background:${colour}`, "aria-hidden": "true" }));
    label.append(text);
    return label;
  }));
  if (focused !== undefined) [...place.querySelectorAll("input")].find((box) => box.dataset.toggle === focused)?.focus();
}

function drawToggles() {
  const able = told.panels.filter((panel) => panel.kinds.includes(kind));
  toggles(runs, able.length > 1 ? able.map((panel) => ({ key: panel.title, text: panel.title })) : [], hiddenRuns);
  const known = new Map();
  for (const panel of shown()) {
    if (panel.bars && !panel.objects) continue;
    for (const [label, one] of Object.entries(panel.classes ?? {})) {
      const instances = kind === "instances";
      const part = panel.shares?.[label] ?? panel.objects?.filter((o) => String(o.label) === label && o.score >= least()).length;
      if (!part && !hiddenClasses.has(one.name)) continue;
      if (!known.has(one.name)) known.set(one.name, { key: one.name, colour: instances ? null : one.colour, text: one.name });
    }
  }
  toggles(classes, [...known.values()], hiddenClasses);
}

// -- panels ------------------------------------------------------------------------------------------------------------

function summary(panel) {
  if (panel.failed) return panel.failed;
  if (panel.shares) {
    const parts = Object.entries(panel.shares).sort((a, b) => b[1] - a[1]);
    return parts.map(([label, part]) => `${panel.classes[label].name} ${percent(part)}`).join(", ");
  }
  if (panel.bars) {
    const best = panel.bars[0];
    if (!best) return "nothing";
    return best.score >= least() ? `${best.name}, ${percent(best.score)}` : `unsure: ${best.name} has ${percent(best.score)} only`;
  }
  const counts = new Map();
  for (const one of panel.objects.filter((one) => visible(panel, one))) {
    const name = panel.classes[one.label].name;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  if (counts.size) return [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => plural(name, count)).join(", ");
  const best = Math.max(0, ...panel.objects.map((one) => one.score));
  if (!panel.objects.length) return "nothing found";
  return best < least() ? `nothing scores ${least().toFixed(2)}; the best has ${best.toFixed(2)}` : "nothing: classes are switched off";
}

function draw() {
  threshold.nextElementSibling.textContent = least().toFixed(2);
  opacity.nextElementSibling.textContent = percent(Number(opacity.value));
  const some = shown();
  at(".tb-threshold").hidden = some.length > 0 && some.every((panel) => panel.shares);
  at(".tb-opacity").hidden = kind !== "instances" && kind !== "pixels";
  drawToggles();
  panels.classList.toggle("tb-busy", Boolean(told.busy));
  if (!some.length) {
    const text = told.image ? "" : "Give it an image, or click on one of the test images.";
    const empty = told.image ? plain() : make("div", { class: "tb-empty" }, text);
    panels.replaceChildren(empty);
    return;
  }
  panels.replaceChildren(...some.map(drawPanel));
  some.forEach((panel, i) => paint(panel, panels.children[i]));
}

function plain() {
  return make("section", { class: "tb-panel" }, stage("The image that was sent"));
}

function stage(alt) {
  const { src, width, height } = told.image;
  const picture = make("img", { src, alt, class: Math.max(width, height) <= 160 ? "tb-tiny" : "" });
  return make("div", { class: "tb-stage", style: `aspect-ratio:${width}/${height};--ratio:${width / height}` }, picture);
}

function drawPanel(panel) {
  const text = summary(panel);
  const time = panel.failed ? "" : `${panel.seconds < 0.1 ? (panel.seconds * 1000).toFixed(0) + " ms" : panel.seconds.toFixed(2) + " s"}`;
  const head = make("header", {}, make("h3", {}, panel.title), make("span", { class: "tb-time", title: "time of the network" }, time));
  const place = stage(`${told.name}: ${text}`);
  const section = make("section", { class: panel.bars ? "tb-panel tb-classified" : "tb-panel", "aria-label": panel.title }, head, place, make("p", { class: "tb-summary" }, text));
  if (panel.bars && !panel.failed) section.append(bars(panel));
  return section;
}

function bars(panel) {
  return make("ol", { class: "tb-bars" }, ...panel.bars.map((one) => make("li", { class: one.score >= least() ? "tb-sure" : "" },
    make("span", {}, one.name), make("div", { "aria-hidden": "true" }, make("b", { style: `width:${one.score * 100}%` })),
    make("em", {}, percent(one.score)))));
}

function paint(panel, section) {
  if (panel.failed) return;
  const place = section.querySelector(".tb-stage");
  if (panel.mask) pixels(panel, place);
  if (panel.objects && kind !== "detection" && kind !== "localization") masks(panel, place);
  if (panel.objects && kind !== "pixels") boxes(panel, place);
}

// -- what lies over an image -------------------------------------------------------------------------------------------

function decoded(address) {
  if (!drawn.has(address)) {
    const picture = new Image();
    picture.src = address;
    drawn.set(address, picture.decode().then(() => picture));
  }
  return drawn.get(address);
}

function overlay(place, width, height) {
  const canvas = make("canvas", { width, height, "aria-hidden": "true", style: `opacity:${opacity.value}` });
  place.append(canvas);
  return canvas;
}

async function pixels(panel, place) {
  const picture = await decoded(panel.mask);
  const canvas = overlay(place, picture.naturalWidth, picture.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height);
  const table = new Uint32Array(256);
  for (const [label, { name, colour }] of Object.entries(panel.classes)) {
    const clear = hiddenClasses.has(name) || (label === "0" && name === "background");
    const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    table[label] = clear ? 0 : ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }
  const whole = new Uint32Array(data.data.buffer);
  for (let i = 0; i < whole.length; i++) whole[i] = table[whole[i] & 255];
  context.putImageData(data, 0, 0);
}

async function masks(panel, place) {
  const factor = Math.max(1, Math.min(4, 640 / Math.max(told.image.width, told.image.height)));
  const [width, height] = [told.image.width, told.image.height].map((side) => Math.round(side * Math.min(factor, 1280 / Math.max(told.image.width, told.image.height))));
  const canvas = overlay(place, width, height);
  const context = canvas.getContext("2d");
  const seen = panel.objects.filter((one) => one.mask && visible(panel, one));
  const pictures = await Promise.all(seen.map((one) => decoded(one.mask)));
  for (let i = seen.length - 1; i >= 0; i--) { // the best on top
    const [left, top, right, bottom] = seen[i].place.map((part, j) => part * (j % 2 ? height : width));
    const colour = kind === "instances" ? seen[i].colour : panel.classes[seen[i].label].colour;
    context.drawImage(tinted(pictures[i], right - left, bottom - top, colour), left, top);
  }
}

function tinted(picture, width, height, colour) {
  const canvas = make("canvas", { width: Math.max(1, Math.round(width)), height: Math.max(1, Math.round(height)) });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

function boxes(panel, place) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  place.append(svg);
  const tags = make("div", { class: "tb-tags", "aria-hidden": "true" });
  place.append(tags);
  for (const one of panel.objects.filter((one) => visible(panel, one)).reverse()) {
    const [x1, y1, x2, y2] = one.box.map((part) => part * 100);
    const colour = kind === "instances" && one.colour ? one.colour : panel.classes[one.label].colour;
    for (const outline of ["#fff", colour]) {
      const box = document.createElementNS(SVG, "rect");
      const sides = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      for (const [name, value] of Object.entries(sides)) box.setAttribute(name, `${value}%`);
      box.setAttribute("stroke", outline);
      box.setAttribute("stroke-width", outline === "#fff" ? 4 : 2);
      if (outline === colour) box.setAttribute("class", "tb-box");
      svg.append(box);
    }
    const tag = make("span", { style: `left:${x1}%;top:${y1}%;background:${colour};color:${ink(colour)}` }, `${panel.classes[one.label].name} ${one.score.toFixed(2)}`);
    tags.append(tag);
    if (y1 < 6) tag.classList.add("tb-inside");
    if (x1 > 70) tag.classList.add("tb-left");
  }
}

function ink(colour) {
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000" : "#fff";
}

// -- what comes from the server ----------------------------------------------------------------------------------------

function receive() {
  if (!props.value) return;
  const before = told.image?.src;
  told = JSON.parse(props.value);
  if (told.image?.src !== before) drawn.clear();
  if (!touched) threshold.value = told.threshold;
  if (!told.kinds.some(([name]) => name === kind)) kind = told.kinds[0]?.[0] ?? null;
  at(".tb-status").textContent = told.busy ?? "";
  at(".tb-alert").textContent = told.error ?? "";
  drawTabs();
  draw();
}

threshold.addEventListener("input", () => {
  touched = true;
  draw();
});
opacity.addEventListener("input", () => {
  opacity.nextElementSibling.textContent = percent(Number(opacity.value));
  for (const canvas of panels.querySelectorAll("canvas")) canvas.style.opacity = opacity.value;
});
watch("value", receive);
receive();
