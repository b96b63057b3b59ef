"use strict";
(() => {
// A scroll is cut into tiles once, so that a frame draws only what is seen and no texture is too large.
const TILE = 1024, CLOSEST = 8, GAP = 8, STEP = 1.4;
const dialog = document.createElement("dialog");
dialog.className = "scroll-viewer";
dialog.setAttribute("aria-label", "Viewer of scrolls");
dialog.innerHTML = `<div class="tools"><span class="said"></span><output></output>
<button data-do="out" title="smaller (-)" aria-label="smaller">−</button><button data-do="in" title="larger (+)" aria-label="larger">+</button>
<button data-do="whole" title="the whole scroll (0)">whole</button><button data-do="pixels" title="a pixel for a pixel (1)">1:1</button>
<button data-do="before" title="the scroll before, same place (Page Up)" aria-label="the scroll before">‹</button>
<button data-do="after" title="the next scroll, same place (Page Down)" aria-label="the next scroll">›</button>
<button data-do="stack" aria-pressed="false" title="all of this prompt, moving together (S)">stack</button>
<button data-do="close" title="close (Esc)" aria-label="close">✕</button></div><canvas tabindex="0"></canvas>`;
document.body.append(dialog);
const canvas = dialog.querySelector("canvas"), context = canvas.getContext("2d");
const said = dialog.querySelector(".said"), percent = dialog.querySelector("output");
const button = name => dialog.querySelector(`[data-do="${name}"]`);

let scrolls = [], current = 0, stacked = false, asked = 0;
// The place is a share of the picture, so that scrolls of different sizes stay together.
const view = { x: 0.5, y: 0.5, zoom: 1 };
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function open(link) {
  const name = link.dataset.scroll;
  const links = name ? [...document.querySelectorAll("a[data-scroll]")].filter(a => a.dataset.scroll === name) : [link];
  scrolls = links.filter(a => a === link || a.offsetParent).map(a => {
    const image = a.querySelector("img"), address = a.getAttribute("href");
    return { source: address.startsWith("#") ? image.src : a.href, title: a.dataset.caption || (image && image.alt) || a.textContent.trim(),
      about: a.dataset.about || "", tiles: new Map(), ...early(image) };
  });
  current = Math.max(0, links.filter(a => a === link || a.offsetParent).indexOf(link));
  stacked = false;
  Object.assign(view, { x: 0.5, y: 0.5, zoom: 1 });
  dialog.showModal();
  canvas.focus();
  update();
}

// What the page shows already stands in until the file is read; shares of the picture mean the same in both.
function early(image) {
  if (!image || !image.complete || !image.naturalWidth) return {};
  return { preview: image, width: image.naturalWidth, height: image.naturalHeight };
}

function release() {
  for (const scroll of scrolls) for (const tile of scroll.tiles.values()) if (tile && tile.close) tile.close();
  scrolls = [];
}

function load(scroll) {
  if (scroll.image || scroll.failed) return;
  scroll.image = new Image();
  scroll.image.onload = () => { scroll.ready = true; scroll.width = scroll.image.naturalWidth; scroll.height = scroll.image.naturalHeight; redraw(); };
  scroll.image.onerror = () => { scroll.failed = true; redraw(); };
  scroll.image.src = scroll.source;
}

function tile(scroll, x, y, width, height) {
  const key = x + "," + y;
  if (!scroll.tiles.has(key)) {
    scroll.tiles.set(key, null);
    createImageBitmap(scroll.image, x, y, width, height).then(bitmap => {
      if (!scrolls.includes(scroll)) return bitmap.close();
      scroll.tiles.set(key, bitmap);
      redraw();
    }, () => {});
  }
  return scroll.tiles.get(key);
}

const shown = () => stacked ? scrolls : scrolls.slice(current, current + 1);

// Each shown scroll with its row of the canvas, in device pixels, and the scale at which it stands there.
function rows() {
  const all = shown(), gap = GAP * devicePixelRatio, height = (canvas.height - gap * (all.length - 1)) / all.length;
  return all.map((scroll, index) => {
    const fit = scroll.width ? Math.min(canvas.width / scroll.width, height / scroll.height) : 1;
    return { scroll, top: index * (height + gap), height, fit, scale: fit * view.zoom };
  });
}

const first = () => rows().find(row => row.scroll.width);

function hold() {
  const row = first();
  if (!row) return;
  view.zoom = clamp(view.zoom, 1, Math.max(1, CLOSEST * devicePixelRatio / row.fit));
  const scale = row.fit * view.zoom;
  for (const [axis, room, size] of [["x", canvas.width, row.scroll.width], ["y", row.height, row.scroll.height]]) {
    const half = Math.min(0.5, room / (2 * size * scale));
    view[axis] = clamp(view[axis], half, 1 - half);
  }
}

function redraw() {
  if (!asked && dialog.open) asked = requestAnimationFrame(draw);
}

function draw() {
  asked = 0;
  const width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  hold();
  context.clearRect(0, 0, width, height);
  rows().forEach(drawRow);
  const row = first();
  percent.value = row ? Math.round(100 * row.scale / devicePixelRatio) + " %" : "";
}

function drawRow({ scroll, top, height, scale }) {
  load(scroll);
  if (!scroll.width || scroll.failed) return write(scroll.failed ? "This picture cannot be shown: " + scroll.title : "…", top);
  context.save();
  context.beginPath();
  context.rect(0, top, canvas.width, height);
  context.clip();
  // Seen closer than its pixels, a picture shows them as squares.
  context.imageSmoothingEnabled = scale < 3 * devicePixelRatio;
  context.imageSmoothingQuality = "high";
  const left = canvas.width / 2 - view.x * scroll.width * scale, upper = top + height / 2 - view.y * scroll.height * scale;
  if (scroll.preview) {
    context.drawImage(scroll.preview, Math.round(left), Math.round(upper), Math.round(scroll.width * scale), Math.round(scroll.height * scale));
  }
  if (scroll.ready) for (let y = 0; y < scroll.height; y += TILE) for (let x = 0; x < scroll.width; x += TILE) {
    const w = Math.min(TILE, scroll.width - x), h = Math.min(TILE, scroll.height - y);
    // Whole pixels: between two smoothed edges a line would show.
    const x0 = Math.round(left + x * scale), y0 = Math.round(upper + y * scale);
    const x1 = Math.round(left + (x + w) * scale), y1 = Math.round(upper + (y + h) * scale);
    if (x1 <= 0 || y1 <= top || x0 >= canvas.width || y0 >= top + height) continue;
    const bitmap = tile(scroll, x, y, w, h);
    if (bitmap) context.drawImage(bitmap, x0, y0, x1 - x0, y1 - y0);
  }
  context.restore();
  if (stacked) write(scroll.title, top);
}

function write(text, top) {
  const size = 13 * devicePixelRatio;
  context.font = `${size}px system-ui, sans-serif`;
  context.fillStyle = "rgba(25, 24, 22, .78)";
  context.fillRect(0, top, Math.min(canvas.width, context.measureText(text).width + size), 1.7 * size);
  context.fillStyle = "#f3efe6";
  context.fillText(text, size / 2, top + 1.2 * size);
}

function update() {
  const many = scrolls.length > 1, title = scrolls[current].title;
  for (const name of ["before", "after"]) button(name).hidden = !many || stacked;
  button("stack").hidden = !many;
  button("stack").setAttribute("aria-pressed", String(stacked));
  const what = stacked ? `${scrolls.length} scrolls together` : (many ? `${current + 1} of ${scrolls.length}: ` : "") + title;
  said.textContent = what + (scrolls[current].about && " \u2014 " + scrolls[current].about);
  said.title = said.textContent;
  canvas.setAttribute("aria-label", said.textContent);
  redraw();
}

// (x, y) in CSS pixels of the canvas; the place under it stays where it is.
function zoomAt(factor, x = canvas.clientWidth / 2, y) {
  const all = rows(), inside = y === undefined ? all[0] : all.find(r => y * devicePixelRatio < r.top + r.height) || all[0];
  const row = inside && inside.scroll.width ? inside : first();
  if (!row) return;
  const dx = x * devicePixelRatio - canvas.width / 2;
  const dy = y === undefined ? 0 : y * devicePixelRatio - row.top - row.height / 2;
  const before = row.scale;
  view.zoom = clamp(view.zoom * factor, 1, Math.max(1, CLOSEST * devicePixelRatio / row.fit));
  const after = row.fit * view.zoom;
  view.x += dx / row.scroll.width * (1 / before - 1 / after);
  view.y += dy / row.scroll.height * (1 / before - 1 / after);
  redraw();
}

function pan(dx, dy) {
  const row = first();
  if (!row) return;
  view.x -= dx * devicePixelRatio / (row.scroll.width * row.scale);
  view.y -= dy * devicePixelRatio / (row.scroll.height * row.scale);
  redraw();
}

const actions = {
  in: () => zoomAt(STEP), out: () => zoomAt(1 / STEP), close: () => dialog.close(),
  whole: () => { view.zoom = 1; redraw(); },
  pixels: () => { const row = first(); if (row) zoomAt(devicePixelRatio / row.scale); },
  before: () => { if (!stacked) { current = (current + scrolls.length - 1) % scrolls.length; update(); } },
  after: () => { if (!stacked) { current = (current + 1) % scrolls.length; update(); } },
  stack: () => { if (scrolls.length > 1) { stacked = !stacked; update(); } },
  left: () => pan(canvas.clientWidth / 5, 0), right: () => pan(-canvas.clientWidth / 5, 0),
  up: () => pan(0, canvas.clientHeight / 5), down: () => pan(0, -canvas.clientHeight / 5),
};
const keys = { "+": "in", "=": "in", "-": "out", "0": "whole", "1": "pixels", PageUp: "before", PageDown: "after", s: "stack",
  ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
dialog.addEventListener("keydown", event => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  actions[keys[event.key]]();
});
dialog.addEventListener("click", event => { const name = event.target.dataset.do; if (name) { actions[name](); } });
dialog.addEventListener("close", release);

canvas.addEventListener("wheel", event => {
  event.preventDefault();
  if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan(-event.deltaX, 0);
  else zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.002)), event.offsetX, event.offsetY);
}, { passive: false });
canvas.addEventListener("dblclick", event => zoomAt(event.shiftKey ? 0.5 : 2, event.offsetX, event.offsetY));

const fingers = new Map();
const spread = () => { const [a, b] = [...fingers.values()]; return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, size: Math.hypot(a.x - b.x, a.y - b.y) }; };
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
});
canvas.addEventListener("pointermove", event => {
  const last = fingers.get(event.pointerId);
  if (!last) return;
  const place = { x: event.offsetX, y: event.offsetY };
  if (fingers.size === 1) pan(place.x - last.x, place.y - last.y);
  const before = fingers.size === 2 && spread();
  fingers.set(event.pointerId, place);
  if (!before) return;
  const after = spread();
  pan(after.x - before.x, after.y - before.y);
  if (before.size > 0) zoomAt(after.size / before.size, after.x, after.y);
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => fingers.delete(event.pointerId));

addEventListener("resize", redraw);
document.addEventListener("click", event => {
  const link = event.target.closest && event.target.closest("a[data-scroll]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  open(link);
});
})();
