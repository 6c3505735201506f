// The page: a picture comes from the board or from a file, the network answers, and the answer is
// drawn. What the network does to pixels (resize, normalisation, softmax) is in model.onnx.
"use strict";

const MOST_PIXELS = 64_000_000; // of a picture, as for nanocnn predict
const MOST_TAKEN = 4_000_000; // pixels that the network is given; larger pictures are halved first
const MOST_BYTES = 200_000_000;
const FEW = 12; // classes that keep their order; of more those with the highest bars are shown
const GRID = 7; // squares a side that are hidden in turn, to see where it looks
const PEN = 24; // of the board's 280 pixels

const find = id => document.getElementById(id);
const board = find("board");
const ink = board.getContext("2d", { willReadFrequently: true });

let facts; // nanocnn.json
let session;
let shown = null; // { picture, probabilities, maps } of the last answer
let chosen = null; // the class whose map is drawn, by default the first
let asked = null; // the picture to answer next
let answering = false;
let original = null; // the picture of a file, before light and dark are exchanged
let asking = 0; // counts what was asked, so that a late file does not overwrite a newer drawing

// A picture is { pixels: Uint8Array of (height, width, channels), width, height, name }.

// ---- the board -------------------------------------------------------------------------------

function clearBoard() {
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, board.width, board.height);
}

/** A stroke of the pen from one point of the board to another. */
function stroke(x0, y0, x1, y1, width = PEN) {
  ink.strokeStyle = "#fff";
  ink.lineWidth = width;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(x0, y0);
  ink.lineTo(x1, y1);
  ink.stroke();
}

/** A square of the board in a level of grey from 0 to 255. */
function square(x, y, side, level) {
  ink.fillStyle = `rgb(${level},${level},${level})`;
  ink.fillRect(x, y, side, side);
}

/** What is on the board, as the data set would have it; null for an empty board. */
function drawing() {
  const { width, height } = board;
  const rgba = ink.getImageData(0, 0, width, height).data;
  const levels = Float64Array.from({ length: width * height }, (_, k) => rgba[4 * k]);
  const box = boxOf(levels, width, height);
  if (!box) return null;
  const [, rows, columns] = facts.image_shape;
  const how = { mass: centredByMass, box: centredByBox, "as drawn": asDrawn }[facts.drawing];
  const pixels = how({ levels, width, height }, box, columns, rows);
  return { pixels, width: columns, height: rows, name: "the drawing" };
}

/** The smallest rectangle with all that is not black. */
function boxOf(levels, width, height) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (levels[y * width + x] > 0) {
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = y;
      }
    }
  }
  return right < 0 ? null : { x: left, y: top, width: right + 1 - left, height: bottom + 1 - top };
}

/** The means of the `columns` x `rows` equal parts of a rectangle; black lies around the source. */
function means(source, box, columns, rows) {
  const shares = (start, length, parts, size) =>
    Array.from({ length: parts }, (_, k) => {
      const [from, to] = [start + (k * length) / parts, start + ((k + 1) * length) / parts];
      const weights = [];
      for (let at = Math.max(0, Math.floor(from)); at < Math.min(size, Math.ceil(to)); at++) {
        weights.push([at, (Math.min(to, at + 1) - Math.max(from, at)) / (to - from)]);
      }
      return weights;
    });
  const across = shares(box.x, box.width, columns, source.width);
  const down = shares(box.y, box.height, rows, source.height);
  const out = new Float64Array(columns * rows);
  down.forEach((ys, row) => across.forEach((xs, column) => {
    let sum = 0;
    for (const [y, share] of ys) {
      for (const [x, part] of xs) sum += share * part * source.levels[y * source.width + x];
    }
    out[row * columns + column] = sum;
  }));
  return out;
}

/** As MNIST was made: within 20 of 28 pixels, and the centre of mass in the middle. */
function centredByMass(source, box, columns, rows) {
  const scale = (20 / 28) * Math.min(columns, rows) / Math.max(box.width, box.height);
  const width = Math.max(1, Math.round(box.width * scale));
  const height = Math.max(1, Math.round(box.height * scale));
  const small = means(source, box, width, height);
  let [mass, x, y] = [0, 0, 0];
  small.forEach((level, k) => {
    mass += level;
    x += level * (k % width);
    y += level * Math.floor(k / width);
  });
  const left = Math.min(columns - width, Math.max(0, Math.round(columns / 2 - x / mass)));
  const top = Math.min(rows - height, Math.max(0, Math.round(rows / 2 - y / mass)));
  const out = new Uint8Array(columns * rows);
  small.forEach((level, k) => {
    out[(top + Math.floor(k / width)) * columns + left + (k % width)] = Math.round(level);
  });
  return out;
}

/** As the digits of scikit-learn: 8 cells high, most of them 6 wide, and then enlarged. */
function centredByBox(source, box, columns, rows) {
  const cellsWide = Math.min(8, Math.sqrt((6 * 8 * box.width) / box.height)); // halfway to 6
  const width = (8 * box.width) / cellsWide;
  const whole = { ...box, x: box.x + (box.width - width) / 2, width };
  const cells = means(source, whole, 8, 8);
  const out = new Uint8Array(columns * rows);
  const at = (place, size) => {
    const exact = Math.min(7, Math.max(0, ((place + 0.5) * 8) / size - 0.5));
    const low = Math.min(6, Math.floor(exact));
    return [low, exact - low];
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [[y, v], [x, u]] = [at(row, rows), at(column, columns)];
      const line = k => (1 - u) * cells[8 * k + x] + u * cells[8 * k + x + 1];
      out[row * columns + column] = Math.round((1 - v) * line(y) + v * line(y + 1));
    }
  }
  return out;
}

function asDrawn(source, box, columns, rows) {
  const whole = { x: 0, y: 0, width: source.width, height: source.height };
  return Uint8Array.from(means(source, whole, columns, rows), Math.round);
}

function drawWithThePointer() {
  const last = new Map(); // where each finger was
  const place = event => {
    const frame = board.getBoundingClientRect();
    const scale = board.width / frame.width;
    return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
  };
  board.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    event.preventDefault();
    board.setPointerCapture(event.pointerId);
    const point = place(event);
    last.set(event.pointerId, point);
    stroke(...point, ...point);
    askAboutDrawing();
  });
  board.addEventListener("pointermove", event => {
    if (!last.has(event.pointerId)) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    for (const step of steps.length ? steps : [event]) {
      const point = place(step);
      stroke(...last.get(event.pointerId), ...point);
      last.set(event.pointerId, point);
    }
    askAboutDrawing();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    board.addEventListener(end, event => last.delete(event.pointerId));
  }
}

function askAboutDrawing() {
  tell("");
  asking++;
  original = null;
  find("invert-row").hidden = true;
  const picture = drawing();
  find("hint").hidden = picture !== null;
  return picture ? ask(picture) : empty();
}

// ---- files -----------------------------------------------------------------------------------

/** What kind of picture a file's first bytes say it is; null for none that is read. */
function kindOf(head) {
  const text = String.fromCharCode(...head);
  if (text.startsWith("\x89PNG")) return "PNG";
  if (text.startsWith("\xff\xd8\xff")) return "JPEG";
  if (text.startsWith("GIF8")) return "GIF";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "WEBP";
  if (text.startsWith("BM")) return "BMP";
  if (text.slice(4, 8) === "ftyp") return "AVIF or HEIC";
  return null;
}

/** The upright picture of a file, over the background of the data. Throws why it cannot be read. */
async function pictureOf(file) {
  if (file.size === 0) throw new Error("empty");
  if (file.size > MOST_BYTES) throw new Error(`more than ${MOST_BYTES / 1e6} MB`);
  const kind = kindOf(new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  if (!kind) throw new Error("none of PNG, JPEG, GIF, WEBP, BMP, AVIF");
  const [width, height] = await sizeOf(file, kind);
  if (width * height > MOST_PIXELS) {
    throw new Error(`more than ${MOST_PIXELS.toLocaleString("en")} pixels`);
  }
  let bitmap;
  try {
    const exact = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    bitmap = await createImageBitmap(file, exact);
  } catch {
    throw new Error(`a ${kind} that this browser cannot read, or a damaged one`);
  }
  try {
    return pixelsOf(bitmap, file.name);
  } finally {
    bitmap.close();
  }
}

/** Width and height, for which no browser decodes the pixels. */
async function sizeOf(file, kind) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
    });
    return [image.naturalWidth, image.naturalHeight];
  } catch {
    throw new Error(`a ${kind} that this browser cannot read, or a damaged one`);
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

function pixelsOf(bitmap, name) {
  let { width, height } = bitmap;
  while (width * height > MOST_TAKEN) {
    [width, height] = [Math.max(1, Math.round(width / 2)), Math.max(1, Math.round(height / 2))];
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = facts.background;
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(width * height * facts.image_shape[0]);
  if (facts.image_shape[0] === 1) {
    for (let k = 0; k < pixels.length; k++) pixels[k] = grey(rgba[4 * k], rgba[4 * k + 1], rgba[4 * k + 2]);
  } else {
    for (let k = 0; k < width * height; k++) {
      for (let channel = 0; channel < 3; channel++) pixels[3 * k + channel] = rgba[4 * k + channel];
    }
  }
  return { pixels, width, height, name };
}

/** ITU-R 601-2, in whole numbers and rounded as Pillow does. */
function grey(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

function inverted(picture) {
  return { ...picture, pixels: picture.pixels.map(level => 255 - level) };
}

async function askAboutFile(file) {
  const mine = ++asking;
  tell("");
  try {
    const picture = await pictureOf(file);
    if (mine !== asking) return;
    original = picture;
    find("invert").checked = false;
    find("invert-row").hidden = facts.image_shape[0] !== 1;
    await ask(picture);
  } catch (error) {
    if (mine === asking) tell(`${file.name || "The picture"}: ${error.message}`);
  }
}

function takeFiles() {
  for (const input of [find("file"), find("camera")]) {
    input.addEventListener("change", () => {
      if (input.files.length) askAboutFile(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  const drop = find("drop");
  addEventListener("dragover", event => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", event => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", event => {
    event.preventDefault();
    drop.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) askAboutFile(file);
    else tell("What was dropped is no file; save the picture first, and drop it from there");
  });
  addEventListener("paste", event => {
    const [file] = event.clipboardData.files;
    if (file) askAboutFile(file);
  });
  find("invert").addEventListener("change", () => {
    if (original) ask(find("invert").checked ? inverted(original) : original);
  });
}

// ---- the network -----------------------------------------------------------------------------

/** Probabilities of each class and, where the network has one, a map for each, of one picture. */
async function run({ pixels, width, height }) {
  const shape = [1, height, width, facts.image_shape[0]];
  const images = new ort.Tensor("uint8", pixels, shape);
  const { probabilities, map } = await session.run({ images });
  return { probabilities: Array.from(probabilities.data), maps: map && mapsOf(map) };
}

function mapsOf({ data, dims: [, , rows, columns] }) {
  const size = rows * columns;
  return k => ({ values: Array.from(data.slice(k * size, (k + 1) * size)), rows, columns });
}

/** Answer for `picture`, or for a newer one if there is one before its turn comes. */
async function ask(picture) {
  asked = picture;
  if (answering) return;
  answering = true;
  try {
    while (asked) {
      const next = asked;
      asked = null;
      const answer = await run(next);
      if (!asked) show({ picture: next, ...answer });
      await new Promise(resolve => setTimeout(resolve)); // let the pen move
    }
  } catch (error) {
    tell(`The network could not be run: ${error.message ?? error}`);
  } finally {
    answering = false;
  }
}

/** What the probability of class `k` loses as each square of a grid is hidden. */
async function occlusion(picture, k) {
  const small = withinReach(picture);
  const { probabilities } = await run(small);
  const mean = facts.mean.map(level => Math.round(255 * level)); // as zeros after normalisation
  const values = [];
  for (let row = 0; row < GRID; row++) {
    const [top, bottom] = part(small.height, row);
    for (let column = 0; column < GRID; column++) {
      const [left, right] = part(small.width, column);
      const hidden = Uint8Array.from(small.pixels);
      for (let y = top; y < bottom; y++) {
        for (let x = left; x < right; x++) hidden.set(mean, (y * small.width + x) * mean.length);
      }
      const answer = await run({ ...small, pixels: hidden });
      values.push(probabilities[k] - answer.probabilities[k]);
    }
    await new Promise(resolve => setTimeout(resolve));
    if (shown?.picture !== picture) return null;
  }
  return { values, rows: GRID, columns: GRID };
}

/** A large picture made smaller, to at most four times the sides that the network takes. */
function withinReach(picture) {
  const { width, height } = picture;
  const [channels, rows, columns] = facts.image_shape;
  const scale = Math.min(1, Math.max((4 * columns) / width, (4 * rows) / height));
  if (scale === 1) return picture;
  const [w, h] = [width, height].map(side => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(w, h);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(canvasOf(picture), 0, 0, w, h);
  const rgba = context.getImageData(0, 0, w, h).data;
  const pixels = new Uint8Array(w * h * channels);
  for (let k = 0; k < w * h; k++) {
    for (let c = 0; c < channels; c++) pixels[channels * k + c] = rgba[4 * k + c];
  }
  return { ...picture, pixels, width: w, height: h };
}

/** Where the `place`-th part of `size` pixels begins and ends, half a part wider on each side. */
function part(size, place) {
  const first = Math.max(0, Math.round((place - 0.5) * (size / GRID)));
  return [first, Math.min(size, Math.max(first + 1, Math.round((place + 1.5) * (size / GRID))))];
}

// ---- what is shown ---------------------------------------------------------------------------

function tell(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

function empty() {
  shown = asked = null;
  find("answer").hidden = true;
  const invitation = facts.drawing ? "Draw something, or choose a picture." : "Choose a picture.";
  find("said").textContent = invitation;
}

const percent = share => `${(100 * share).toFixed(1)}%`;

function show(answer) {
  const same = shown?.picture === answer.picture;
  shown = answer;
  if (!same) chosen = null;
  const best = firstOf(answer.probabilities);
  const name = document.createElement("b");
  name.textContent = facts.classes[best];
  find("said").replaceChildren(name, `, ${percent(answer.probabilities[best])}`);
  find("answer").hidden = false;
  showPicture(answer.picture);
  showBars(answer.probabilities, best);
  showMap();
}

function firstOf(shares) {
  return shares.reduce((best, share, k) => (share > shares[best] ? k : best), 0);
}

function showBars(shares, best) {
  let order = shares.map((_, k) => k);
  if (shares.length > FEW) order = order.sort((a, b) => shares[b] - shares[a]).slice(0, FEW - 2);
  const list = find("bars");
  list.classList.toggle("short", order.every(k => facts.classes[k].length <= 3));
  while (list.children.length < order.length) list.append(newBar());
  while (list.children.length > order.length) list.lastChild.remove();
  order.forEach((k, place) => {
    const bar = list.children[place].firstChild;
    const [label, track, share] = bar.children;
    label.textContent = facts.classes[k];
    track.firstChild.style.width = `${100 * shares[k]}%`;
    share.textContent = percent(shares[k]);
    bar.classList.toggle("first", k === best);
    bar.dataset.place = k;
  });
}

function newBar() {
  const item = document.createElement("li");
  const bar = document.createElement("button");
  bar.type = "button";
  bar.title = "Where the network looks for this class";
  const [label, track, share] = ["span", "span", "span"].map(tag => document.createElement(tag));
  track.className = "track";
  track.append(document.createElement("i"));
  share.className = "share";
  bar.append(label, track, share);
  bar.addEventListener("click", () => {
    chosen = Number(bar.dataset.place);
    lookAtMap(true);
  });
  item.append(bar);
  return item;
}

function canvasOf({ pixels, width, height }) {
  const channels = facts.image_shape[0];
  const image = new ImageData(width, height);
  for (let k = 0; k < width * height; k++) {
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = pixels[channels === 1 ? k : 3 * k + c];
    image.data[4 * k + 3] = 255;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The picture as the network's resize leaves it: stretched, cut out or with bars at its sides. */
function showPicture(picture) {
  const [, rows, columns] = facts.image_shape;
  const canvas = find("picture");
  const scale = Math.max(1, Math.round(352 / Math.max(rows, columns)));
  [canvas.width, canvas.height] = [columns * scale, rows * scale];
  const context = canvas.getContext("2d");
  const fits = picture.width === columns && picture.height === rows;
  context.imageSmoothingEnabled = !fits;
  context.imageSmoothingQuality = "high";
  context.fillStyle = facts.background;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const across = canvas.width / picture.width;
  const down = canvas.height / picture.height;
  let [x, y] = [across, down];
  if (facts.resize === "crop") x = y = Math.max(across, down) / facts.crop_fraction;
  if (facts.resize === "pad") x = y = Math.min(across, down);
  const [w, h] = [picture.width * x, picture.height * y];
  context.drawImage(canvasOf(picture), (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
}

async function lookAtMap(on) {
  find("look").setAttribute("aria-pressed", on);
  await showMap();
}

/** The map of the chosen class as a red veil, if it is asked for. */
async function showMap() {
  const button = find("look");
  const on = button.getAttribute("aria-pressed") === "true";
  const k = chosen ?? firstOf(shown.probabilities);
  for (const { firstChild: bar } of find("bars").children) {
    bar.setAttribute("aria-pressed", on && Number(bar.dataset.place) === k);
  }
  if (!on) {
    find("map").hidden = true;
    find("caption").textContent = "As the network sees it";
    return;
  }
  const { picture, maps } = shown;
  let map = maps?.(k);
  if (!map) {
    find("map").hidden = true;
    find("caption").textContent = "Hiding one part after the other ...";
    map = await occlusionInTurn(picture, k);
    if (!map || shown?.picture !== picture) return;
  }
  drawVeil(map, maps ? Math.min(...map.values) : 0);
  const why = maps ? "what speaks for" : "what is needed for";
  find("caption").textContent = `Red: ${why} ${facts.classes[k]}`;
}

let looking = Promise.resolve();

/** One occlusion at a time, and none for a picture or class that is no longer the one. */
function occlusionInTurn(picture, k) {
  looking = looking.then(async () => {
    const wanted = () => shown?.picture === picture && (chosen ?? firstOf(shown.probabilities)) === k;
    while (answering) await new Promise(resolve => setTimeout(resolve, 20));
    if (!wanted()) return null;
    answering = true; // the network runs once at a time
    try {
      const map = await occlusion(picture, k);
      return wanted() ? map : null;
    } catch (error) {
      tell(`The network could not be run: ${error.message ?? error}`);
      return null;
    } finally {
      answering = false;
      if (asked) ask(asked);
    }
  });
  return looking;
}

/** A red veil over the picture, thickest where a value is largest; none at `least` and below. */
function drawVeil({ values, rows, columns }, least) {
  const most = Math.max(...values) - least;
  const image = new ImageData(columns, rows);
  values.forEach((value, k) => {
    const share = most > 0 ? Math.max(0, value - least) / most : 0;
    image.data.set([230, 0, 0, Math.round(200 * share)], 4 * k);
  });
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(image, 0, 0);
  const canvas = find("map");
  [canvas.width, canvas.height] = [find("picture").width, find("picture").height];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  canvas.hidden = false;
}

// ---- the start -------------------------------------------------------------------------------

async function start() {
  if (location.protocol === "file:") return; // what to type instead stands there
  find("not-served").hidden = true;
  find("main").hidden = false;
  try {
    const answer = await fetch("nanocnn.json");
    if (!answer.ok) throw new Error(`nanocnn.json: ${answer.statusText || answer.status}`);
    facts = await answer.json();
    document.title = find("title").textContent = facts.title;
    find("about").textContent = facts.about;
    find("draw").hidden = !facts.drawing;
    if (facts.drawing) find("how").textContent = "Or drop a picture here, paste one, or";
    ort.env.wasm.numThreads = 1; // more would need headers that http.server does not send
    ort.env.logLevel = "error";
    session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  } catch (error) {
    find("said").textContent = "";
    tell(`The network could not be loaded: ${error.message ?? error}`);
    return;
  }
  clearBoard();
  empty();
  drawWithThePointer();
  takeFiles();
  find("clear").addEventListener("click", () => {
    clearBoard();
    askAboutDrawing();
  });
  find("look").addEventListener("click", () => {
    lookAtMap(find("look").getAttribute("aria-pressed") !== "true");
  });
  document.documentElement.dataset.ready = "true";
}

start();
