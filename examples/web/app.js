// The page: a timeline of seeds, a slider along it, a picture. One image is computed at a time, always the latest asked for.
import { along, latent } from "./latents.js";
import { fetchModel, readModel } from "./model.js";

const MOST_SEEDS = 8;
const SECONDS = 2.5; // from seed to seed while playing

const $ = (id) => document.getElementById(id);
const canvas = $("picture");
const paper = canvas.getContext("2d", { willReadFrequently: true });

let model = null;
let seeds = [];
let keys = [];
let isDrawing = false;
let playing = null; // {start, from}: when it began, and at which turn

function say(message, isError = false) {
  $("message").textContent = message;
  $("message").classList.toggle("error", isError);
  $("message").hidden = !message;
  document.body.dataset.state = isError ? "error" : message ? "loading" : "ready";
}

function parseSeeds(text) {
  const parts = text.split(/[\s,;]+/).filter(Boolean);
  if (parts.length < 2 || parts.length > MOST_SEEDS || !parts.every((part) => /^\d{1,15}$/.test(part))) {
    throw new Error(`Write 2 to ${MOST_SEEDS} whole numbers with commas between them, such as 1, 5, 9.`);
  }
  return parts.map(Number);
}

const position = () => Number($("position").value);
const truncation = () => Number($("truncation").value);

function showNumbers() {
  const at = position();
  const seed = seeds[Math.round(at)];
  const where =
    at % 1 === 0 ? `seed ${seed}` : `between ${seeds[Math.floor(at)]} and ${seeds[Math.ceil(at)]}, ${Math.round((at % 1) * 100)} %`;
  $("where").textContent = where;
  $("position").setAttribute("aria-valuetext", where);
  $("strength").textContent = truncation().toFixed(2);
  canvas.setAttribute("aria-label", `Generated image: ${where}`);
  [...$("strip").children].forEach((each, i) => each.setAttribute("aria-current", String(i === Math.round(at))));
}

/** Draw what the controls say; if that changes meanwhile, draw once more. */
async function draw() {
  showNumbers();
  if (!model || isDrawing) return;
  isDrawing = true;
  try {
    let wanted;
    do {
      wanted = [model, keys, position(), truncation()];
      const started = performance.now();
      const image = await model.image(along(keys, wanted[2]), wanted[3]);
      const taken = performance.now() - started;
      if (canvas.width !== image.width) canvas.width = canvas.height = image.width;
      paper.putImageData(image, 0, 0);
      canvas.dataset.shown = `${seeds.join(",")} ${wanted[2]} ${wanted[3]}`;
      $("speed").textContent = ` · ${taken.toFixed(taken < 10 ? 1 : 0)} ms an image here`;
      await new Promise(requestAnimationFrame); // let the page paint and hear
    } while (wanted.some((value, i) => value !== [model, keys, position(), truncation()][i]));
  } catch (error) {
    pause();
    say(`The image could not be computed: ${error.message}`, true);
  } finally {
    isDrawing = false;
  }
}

/** Small pictures of the seeds, one after the other behind whatever the slider asks for. */
async function fillStrip() {
  const mine = keys;
  const buttons = seeds.map((seed, i) => {
    const button = document.createElement("button");
    const image = document.createElement("canvas");
    const label = document.createElement("span");
    button.type = "button";
    button.setAttribute("aria-label", `Go to seed ${seed}`);
    label.textContent = seed;
    button.append(image, label);
    button.addEventListener("click", () => {
      pause();
      $("position").value = i;
      draw();
    });
    return button;
  });
  $("way").style.setProperty("--count", seeds.length);
  $("strip").replaceChildren(...buttons);
  showNumbers();
  for (const [i, button] of buttons.entries()) {
    const pixels = await model.image(keys[i], truncation());
    if (keys !== mine) return;
    const image = button.firstChild;
    image.width = image.height = pixels.width;
    image.getContext("2d").putImageData(pixels, 0, 0);
  }
}

async function walk() {
  let fault = "";
  try {
    const wanted = parseSeeds($("seeds").value);
    keys = wanted.map((seed) => latent(seed, model.latentSize));
    seeds = wanted;
  } catch (error) {
    fault = error.message;
  }
  $("fault").textContent = fault;
  $("seeds").setAttribute("aria-invalid", String(fault !== ""));
  if (fault) return;
  say("");
  $("position").max = seeds.length - 1;
  if (position() > seeds.length - 1) $("position").value = 0;
  const drawn = draw();
  const strip = fillStrip();
  await drawn;
  await strip.catch((error) => say(`The image could not be computed: ${error.message}`, true));
}

async function use(opening) {
  pause();
  say("Opening the model …");
  $("controls").disabled = true;
  try {
    const opened = await opening;
    const before = model;
    model = opened;
    await before?.release();
  } catch (error) {
    $("controls").disabled = !model;
    return say(error.message, true);
  }
  $("truncation").disabled = !model.isTruncatable;
  tell();
  say("");
  $("controls").disabled = false;
  await walk();
}

function tell() {
  const { card = {}, bytes, resolution, noise, licence } = model.facts;
  const parts = [
    card.name ? `${model.name} (${card.name})` : model.name,
    resolution && `${resolution} px`,
    bytes && `${(bytes / 1e6).toFixed(1)} MB`,
    noise === null ? "no noise" : noise !== undefined && `noise of seed ${noise}`,
  ];
  $("facts").textContent = parts.filter(Boolean).join(" · ");
  $("licence").textContent = licence ? `Licence of the model: ${licence}` : "Licence of the model: not stated.";
}

function pause() {
  playing = null;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

/** There and back again, at an even pace. */
function step(now) {
  if (!playing) return;
  const last = seeds.length - 1;
  const gone = (playing.from + (now - playing.start) / 1000 / SECONDS) % (2 * last);
  $("position").value = gone <= last ? gone : 2 * last - gone;
  draw();
  requestAnimationFrame(step);
}

$("play").addEventListener("click", () => {
  if (playing) return pause();
  playing = { start: performance.now(), from: position() };
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  requestAnimationFrame(step);
});
$("position").addEventListener("input", () => {
  pause();
  draw();
});
$("truncation").addEventListener("input", draw);
$("truncation").addEventListener("change", fillStrip);
$("choice").addEventListener("submit", (event) => {
  event.preventDefault();
  pause();
  walk();
});
$("others").addEventListener("click", () => {
  pause();
  const count = seeds.length || 6; // none yet where the first were no numbers
  $("seeds").value = Array.from({ length: count }, () => Math.floor(Math.random() * 10000)).join(", ");
  walk();
});
$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) use(readModel(file));
});

use(fetchModel(new URLSearchParams(location.search).get("model") ?? "models/model.onnx"));
