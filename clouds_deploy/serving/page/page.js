"use strict";
// The page draws everything from the label PNG; the server is asked once a photo, and once a click.
const $ = (id) => document.getElementById(id);
const LARGEST = 1600; // pixels of the longer side that are drawn; the server sees all of them
const STAGES = { receive: "#9aa4b8", decode: "#5b9bd5", label: "#8f6fd1", queue: "#d99a00", engine: "#2f6fde", encode: "#6bbf8a" };
const MASK = [0, 229, 255];
const state = { about: null, file: null, labels: null, width: 0, height: 0, scale: 1, hidden: new Set(), points: [], sign: 1, turn: 0 };

function busy(on) { $("busy").hidden = !on; }

function complain(text) {
  $("fault").textContent = text || "";
  $("fault").hidden = !text;
}

// A server with a token is told it; it is asked for once, and kept until the tab is closed.
async function call(path, options = {}) {
  for (let again = true; ; again = false) {
    const token = sessionStorage.getItem("token");
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401 || !again) return response;
    const given = prompt("This server asks for a token.");
    if (!given) return response;
    sessionStorage.setItem("token", given.trim());
  }
}

async function ask(path, fields) {
  const form = new FormData();
  form.append("image", state.file, "photo");
  for (const [name, value] of Object.entries(fields || {})) form.append(name, value);
  const start = performance.now();
  let response;
  try {
    response = await call(path, { method: "POST", body: form, headers: { Accept: "image/png" } });
  } catch (error) {
    throw new Error("The server does not answer.");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.error ? `${told.error}.` : `The server answered ${response.status}.`);
  }
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  showTime(response.headers.get("Server-Timing") || "", performance.now() - start);
  return { bitmap, headers: response.headers };
}

function showTime(header, trip) {
  const laps = Object.fromEntries([...header.matchAll(/(\w+);dur=([\d.]+)/g)].map((m) => [m[1], Number(m[2])]));
  $("bar").replaceChildren();
  $("time").replaceChildren();
  for (const [name, color] of Object.entries(STAGES)) {
    if (!(name in laps)) continue;
    const piece = document.createElement("i");
    piece.style.flex = String(Math.max(laps[name], 0.01));
    piece.style.background = color;
    $("bar").append(piece);
    const key = document.createElement("span");
    key.className = "key";
    const dot = document.createElement("i");
    dot.style.background = color;
    key.append(dot, `${name} ${milliseconds(laps[name])}`);
    $("time").append(key);
  }
  const whole = document.createElement("span");
  whole.className = "key";
  whole.textContent = `there and back ${milliseconds(trip)}`;
  $("time").append(whole);
}

function milliseconds(value) { return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`; }

function pixels(bitmap) {
  const canvas = new OffscreenCanvas(state.width, state.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, state.width, state.height);
  const data = context.getImageData(0, 0, state.width, state.height).data;
  const values = new Uint8Array(state.width * state.height);
  for (let i = 0; i < values.length; i++) values[i] = data[4 * i];
  return values;
}

async function open(file) {
  complain("");
  const turn = ++state.turn;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch (error) {
    complain("This file is not an image that the browser can show.");
    return;
  }
  const limits = state.about.limits;
  if (file.size > limits.bytes) { complain(`This photo has more than ${(limits.bytes / 2 ** 20).toFixed(0)} MiB.`); return; }
  state.file = file;
  state.scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  state.width = Math.max(1, Math.round(bitmap.width * state.scale));
  state.height = Math.max(1, Math.round(bitmap.height * state.scale));
  for (const id of ["photo", "classes", "mask"]) {
    $(id).width = state.width;
    $(id).height = state.height;
  }
  $("picture").style.maxWidth = `min(100%, calc(72vh * ${state.width / state.height}))`;
  $("picture").style.width = "100%";
  $("photo").getContext("2d").drawImage(bitmap, 0, 0, state.width, state.height);
  state.labels = null;
  state.points = [];
  state.hidden.clear();
  drawMask(null);
  for (const id of ["picture", "tools", "side"]) $(id).hidden = false;
  $("drop").hidden = true;
  document.querySelector("main").classList.add("shown");
  $("legend").replaceChildren();
  await label("/v1/segment", turn);
}

async function label(path, turn) {
  busy(true);
  $("refine").disabled = true;
  try {
    const { bitmap } = await ask(path);
    if (turn !== state.turn) return;
    state.labels = pixels(bitmap);
    drawLegend();
    drawClasses();
  } catch (error) {
    if (turn === state.turn) complain(error.message);
  } finally {
    if (turn === state.turn) busy(false);
    $("refine").disabled = false;
  }
}

function drawLegend() {
  const counts = new Array(256).fill(0);
  for (const value of state.labels) counts[value]++;
  const rows = state.about.classes.filter((one) => counts[one.id]).sort((a, b) => counts[b.id] - counts[a.id]);
  $("legend").replaceChildren(...rows.map((one) => {
    const share = (100 * counts[one.id]) / state.labels.length;
    const shown = share >= 0.05 ? `${share.toFixed(1)} %` : "< 0.1 %";
    return row(one, shown);
  }));
  if (counts[255]) $("legend").append(row({ id: 255, name: "not known", color: [128, 128, 128] }, `${((100 * counts[255]) / state.labels.length).toFixed(1)} %`));
  $("all").textContent = rows.some((one) => !state.hidden.has(one.id)) ? "hide all" : "show all";
}

function row(one, shown) {
  const item = document.createElement("li");
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.checked = !state.hidden.has(one.id);
  box.dataset.id = one.id;
  box.addEventListener("change", () => {
    if (box.checked) state.hidden.delete(one.id); else state.hidden.add(one.id);
    drawClasses();
  });
  const swatch = document.createElement("i");
  swatch.style.setProperty("--swatch", `rgb(${one.color.join(",")})`);
  const name = document.createElement("span");
  name.textContent = one.name;
  const value = document.createElement("b");
  value.textContent = shown;
  label.append(box, swatch, name, value);
  item.append(label);
  return item;
}

function drawClasses() {
  if (!state.labels) return;
  const { width, height, labels } = state;
  const colors = new Uint8Array(256 * 4);
  for (const one of state.about.classes) if (!state.hidden.has(one.id)) colors.set([...one.color, 255], 4 * one.id);
  const image = new ImageData(width, height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const value = labels[i];
      const edge = (x > 0 && labels[i - 1] !== value) || (y > 0 && labels[i - width] !== value);
      const dark = edge ? 0.55 : 1;
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = colors[4 * value + c] * dark;
      image.data[4 * i + 3] = colors[4 * value + 3];
    }
  }
  $("classes").getContext("2d").putImageData(image, 0, 0);
  $("classes").style.opacity = Number($("opacity").value) / 100;
  $("all").textContent = [...$("legend").querySelectorAll("input")].some((box) => box.checked) ? "hide all" : "show all";
}

function drawMask(mask) {
  const { width, height } = state;
  const context = $("mask").getContext("2d");
  context.clearRect(0, 0, width, height);
  if (mask) {
    const image = new ImageData(width, height);
    const reach = Math.max(1, Math.round(Math.max(width, height) / 500));
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (!mask[i]) continue;
        const inside = x >= reach && x < width - reach && y >= reach && y < height - reach &&
          mask[i - reach] && mask[i + reach] && mask[i - reach * width] && mask[i + reach * width];
        image.data.set([...MASK, inside ? 110 : 255], 4 * i);
      }
    }
    context.putImageData(image, 0, 0);
  }
  $("dots").replaceChildren(...state.points.map(([x, y, sign]) => {
    const dot = document.createElement("i");
    dot.className = sign ? "on" : "off";
    dot.style.left = `${(100 * x * state.scale) / width}%`;
    dot.style.top = `${(100 * y * state.scale) / height}%`;
    return dot;
  }));
  $("picture").classList.toggle("asked", state.points.length > 0);
  $("undo").disabled = $("clear").disabled = !state.points.length;
  if (!state.points.length) $("found").textContent = "";
}

async function find() {
  const turn = ++state.turn;
  drawMask(null);
  if (!state.points.some((point) => point[2])) {
    $("found").textContent = state.points.length ? "Now click on the thing itself." : "";
    return;
  }
  busy(true);
  complain("");
  try {
    const { bitmap, headers } = await ask("/v1/points", { points: JSON.stringify(state.points) });
    if (turn !== state.turn) return;
    drawMask(pixels(bitmap));
    const told = headers.get("X-Mask") || "";
    const iou = /iou=([\d.-]+)/.exec(told), share = /share=([\d.e-]+)/.exec(told);
    if (iou && share) $("found").textContent = `${(100 * share[1]).toFixed(1)} % of the photo; SAM rates its mask ${Number(iou[1]).toFixed(2)}.`;
  } catch (error) {
    if (turn === state.turn) complain(error.message);
  } finally {
    if (turn === state.turn) busy(false);
  }
}

function setSign(sign) {
  state.sign = sign;
  $("plus").setAttribute("aria-pressed", String(sign === 1));
  $("minus").setAttribute("aria-pressed", String(sign === 0));
}

async function start() {
  state.about = await (await call("/v1/model")).json();
  const { model, backend, precision, width, height, sam, limits } = state.about;
  $("rules").textContent = `JPEG, PNG or WebP, up to ${(limits.bytes / 2 ** 20).toFixed(0)} MiB; it goes to this server only`;
  $("about").textContent = `model ${model} · ${backend} ${precision} · ${width} × ${height}` + (sam ? ` · ${sam}` : "");
  if (state.about.random_weights) {
    $("warning").textContent = "This model has random weights: its labels mean nothing.";
    $("warning").hidden = false;
  }
  if (sam) $("sam").textContent = sam;
  else for (const id of ["clicks", "refine"]) $(id).hidden = true;
  $("picture").classList.toggle("still", !sam);

  $("file").addEventListener("change", () => { if ($("file").files[0]) open($("file").files[0]); $("file").value = ""; });
  $("again").addEventListener("click", () => $("file").click());
  $("example").addEventListener("click", async (event) => {
    event.preventDefault();
    const response = await call("/v1/example");
    if (response.ok) open(await response.blob()); else complain("The bundle holds no example.");
  });
  $("refine").addEventListener("click", () => { complain(""); label("/v1/refine", ++state.turn); });
  $("opacity").addEventListener("input", () => { $("classes").style.opacity = Number($("opacity").value) / 100; });
  $("all").addEventListener("click", () => {
    const boxes = [...$("legend").querySelectorAll("input")];
    const hide = boxes.some((box) => box.checked);
    for (const box of boxes) { box.checked = !hide; if (hide) state.hidden.add(Number(box.dataset.id)); }
    if (!hide) state.hidden.clear();
    drawClasses();
  });
  $("plus").addEventListener("click", () => setSign(1));
  $("minus").addEventListener("click", () => setSign(0));
  $("undo").addEventListener("click", () => { state.points.pop(); find(); });
  $("clear").addEventListener("click", () => { state.points = []; find(); });
  $("photo").addEventListener("click", (event) => {
    if (!sam || !state.file) return;
    const box = $("photo").getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * state.width / state.scale;
    const y = ((event.clientY - box.top) / box.height) * state.height / state.scale;
    const most = (size) => Math.ceil(size / state.scale) - 1;
    const clamp = (value, size) => Math.round(Math.min(Math.max(value, 0), most(size)) * 10) / 10;
    state.points.push([clamp(x, state.width), clamp(y, state.height), event.shiftKey ? 0 : state.sign]);
    find();
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
    });
  }
}

start().catch(() => complain("The server does not answer."));
