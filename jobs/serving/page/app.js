// The page: what the fields say becomes requests, what the service draws becomes pictures.

import * as api from "./api.js";
import * as memory from "./memory.js";
import { Pad } from "./pad.js";
import { Subjects } from "./subjects.js";
import { Field, fieldOf, plain } from "./fields.js";
import { Stage, pictureButton } from "./stage.js";

const SWEEP = [0, 0.25, 0.5, 0.75, 1]; // gates, side by side
const PREVIEWS = 3;

const $ = (id) => document.getElementById(id);
const served = await (await fetch("playground/service.json")).json();
$("model").replaceChildren(...served.models.map((name) => new Option(name)));
const stage = new Stage();
const pad = new Pad($("pad"), moved, released);
const subjects = new Subjects($("subjects"), served.subjects, refused, chosen);

let running = null; // AbortController of what is being drawn
let series = ""; // all but the gate: pictures that differ in the gate alone share the pad
let drawn = false; // whether anything was drawn since the page was opened

// ---- requests ----

const number = (id) => ($(id).value.trim() === "" ? null : Number($(id).value));
const way = () => document.querySelector("[name=way]:checked").value;

function asked() {
  const body = {
    model: $("model").value,
    prompt: $("prompt").value,
    num_inference_steps: number("steps"),
    guidance_scale: number("guidance"),
    negative_prompt: $("negative").value,
    solver: $("solver").value,
    stream: true,
    partial_images: PREVIEWS,
  };
  return number("seed") === null ? body : { ...body, seed: number("seed") };
}

function gate() {
  if (way() === "dial") return { gate: pad.preservation };
  return { preservation: pad.preservation, personalization: pad.personalization };
}

/** Draws one picture and tells `target` of it; a subject that has expired on the way is uploaded once more. */
async function drawOne(gate, target, signal, again = true) {
  const subject = subjects.chosen, cutOut = $("cut").checked, body = asked();
  try {
    if (subject.ids) body.subjects = [{ subject_id: await subjects.id(subject, cutOut), ...gate }];
    let shown = 0;
    for await (const event of api.draw(body, signal, waits)) {
      if (event.receipt) return finished(event, subject, target);
      target.preview(event.blob, ++shown / (PREVIEWS + 1));
    }
  } catch (refusal) {
    if (!again || refusal.code !== "subject_not_found") throw refusal;
    delete subject.ids[cutOut];
    return drawOne(gate, target, signal, false);
  }
  throw new api.Refusal({ message: "The service broke off in the middle. Try again." });
}

function finished({ blob, receipt }, subject, target) {
  const picture = { blob, receipt, time: Date.now() };
  picture.url = URL.createObjectURL(blob);
  target.done(picture);
  const weights = receipt.subjects[0];
  if (weights && !Array.isArray(weights.preservation)) pad.mark(picture.url, weights, () => show(picture));
  memory.keepPicture({ blob, receipt, time: picture.time });
  remember(picture);
  return picture;
}

/** Runs what draws, one at a time: what was being drawn is given up, and the service is told so. */
async function run(work) {
  running?.abort();
  const mine = (running = new AbortController());
  newSeries();
  Field.clear();
  drawn = true;
  $("stop").hidden = false;
  try {
    await work(mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") refused(error);
    mine.abort(); // the others of a sweep
  } finally {
    if (running === mine) {
      running = null;
      $("stop").hidden = true;
      stage.idle();
    }
  }
}

function drawNow() {
  return run(async (signal) => {
    stage.begin(subjects.chosen.url);
    comeIntoView("stage");
    const picture = await drawOne(gate(), stage, signal);
    show(picture);
  });
}

function sweepNow() {
  return run(async (signal) => {
    if (!subjects.chosen.ids) throw new api.Refusal({ message: "Pick a subject to sweep the dial over.", param: "subject" });
    const cells = layOut();
    comeIntoView("compare");
    const pictures = await Promise.all(cells.map((cell) => drawOne({ gate: cell.gate }, cell, signal)));
    if (!stage.picture) show(pictures[2]);
  });
}

/** On a narrow page, where the fields stand above the pictures. */
function comeIntoView(id) {
  if (innerWidth < 960) $(id).scrollIntoView({ block: "start", behavior: "smooth" });
}

function layOut() {
  const cells = SWEEP.map((value) => new Cell(value));
  $("strip").replaceChildren(...cells.map((cell) => cell.element));
  return cells;
}

/** One place of the sweep. */
class Cell {
  constructor(gate) {
    this.gate = gate;
    this.element = document.createElement("li");
    this.button = Object.assign(document.createElement("button"), { type: "button", disabled: true });
    this.button.setAttribute("aria-label", `Gate ${gate}`);
    this.image = new Image();
    this.image.alt = "";
    const caption = Object.assign(document.createElement("span"), { textContent: `gate ${gate}` });
    this.element.append(this.button, caption);
    this.element.className = "drawing";
  }

  preview(blob) {
    if (!this.image.parentNode) this.button.append(this.image);
    const url = URL.createObjectURL(blob);
    this.image.onload = () => URL.revokeObjectURL(url);
    this.image.src = url;
  }

  done(picture) {
    this.preview(picture.blob);
    this.element.className = "";
    this.button.disabled = false;
    this.button.picture = picture;
    this.button.addEventListener("click", () => show(picture));
  }
}

// ---- what is said ----

function refused(error) {
  stage.idle();
  const field = Field.of(fieldOf(error.param));
  field.wrong(plain(error, served));
}

function waits(seconds) {
  Field.of("ask").hint(`Others are being drawn. Trying again in ${seconds} s.`);
}

// ---- pad and sliders ----

function moved() {
  for (const name of ["preservation", "personalization"]) {
    $(name).value = pad[name];
    $(`${name}-is`).value = pad[name].toFixed(2);
  }
}

function released() {
  if (drawn && $("eager").checked && subjects.chosen.ids) drawNow();
}

function chosen(subject) {
  $("who").src = subject.url ?? "playground/icon.svg";
  newSeries();
}

function newSeries() {
  const now = JSON.stringify([subjects.chosen.sha256, $("cut").checked, asked()]);
  if (now !== series) pad.clear();
  series = now;
}

for (const name of ["preservation", "personalization"]) {
  $(name).addEventListener("input", () => {
    const value = Number($(name).value);
    const kept = name === "preservation" ? value : way() === "dial" ? 1 - value : pad.preservation;
    pad.set(kept, name === "personalization" ? value : pad.personalization);
    moved();
  });
  $(name).addEventListener("change", released);
}
for (const radio of document.querySelectorAll("[name=way]")) {
  radio.addEventListener("change", () => {
    pad.keepToDial(way() === "dial");
    moved();
  });
}

// ---- pictures ----

function show(picture) {
  stage.show(picture);
  for (const button of document.querySelectorAll("#history button, #strip button")) {
    button.setAttribute("aria-current", button.picture === picture);
  }
  const weights = picture.receipt.subjects[0];
  if (weights && !Array.isArray(weights.preservation)) {
    if (Math.abs(weights.preservation + weights.personalization - 1) > 0.005) choose("free");
    pad.set(weights.preservation, weights.personalization);
    moved();
  }
}

function choose(value) {
  document.querySelector(`[name=way][value=${value}]`).checked = true;
  pad.keepToDial(value === "dial");
}

function remember(picture) {
  const item = document.createElement("li");
  item.append(pictureButton(picture, () => show(picture)));
  $("history").prepend(item);
}

function useAgain() {
  const { receipt } = stage.picture;
  $("prompt").value = receipt.prompt;
  $("negative").value = receipt.negative_prompt;
  $("seed").value = receipt.seed;
  $("steps").value = receipt.steps;
  $("guidance").value = receipt.guidance_scale;
  $("solver").value = receipt.solver;
  if (served.models.includes(receipt.model)) $("model").value = receipt.model;
  const drawn = receipt.subjects[0];
  const subject = drawn ? subjects.bySha256(drawn.sha256) : subjects.all[0];
  if (drawn) $("cut").checked = drawn.cut_out;
  if (subject) subjects.choose(subject);
  else Field.of("subject").wrong("This browser no longer has the subject of that picture.");
  show(stage.picture);
}

// ---- the page's own events ----

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  drawNow();
});
$("sweep").addEventListener("click", sweepNow);
$("stop").addEventListener("click", () => running?.abort());
$("again").addEventListener("click", useAgain);
$("dice").addEventListener("click", () => ($("seed").value = crypto.getRandomValues(new Uint16Array(1))[0]));
$("clear").addEventListener("click", () => {
  if (!confirm("Forget all pictures in this browser?")) return;
  memory.forgetPictures();
  $("history").replaceChildren();
});
$("copy").addEventListener("click", async () => {
  const copied = navigator.clipboard?.writeText(JSON.stringify(stage.picture.receipt, null, 2));
  $("copy").textContent = await (copied ?? Promise.reject()).then(() => "Copied", () => "Not allowed here"); // without TLS
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
});
for (const button of $("ideas").children) {
  button.addEventListener("click", () => ($("prompt").value = button.dataset.prompt));
}
addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) drawNow();
  if (event.key === "Escape") running?.abort();
});

function upload(file) {
  if (!file) return;
  Field.clear();
  subjects.add(file, $("cut").checked).catch((error) => {
    const beside = error.param === "authorization" ? error.param : "subject";
    refused(Object.assign(error, { param: beside }));
  });
}

$("upload").addEventListener("change", () => {
  upload($("upload").files[0]);
  $("upload").value = "";
});
addEventListener("paste", (event) => upload([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("ask").classList.add("over");
});
addEventListener("dragleave", () => $("ask").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("ask").classList.remove("over");
  upload(event.dataTransfer.files[0]);
});

// ---- at the start ----

$("served").textContent = `${served.size.replace("x", " × ")} px`;
$("steps").value = served.defaults.num_inference_steps;
$("guidance").value = served.defaults.guidance_scale;
$("access").hidden = !served.keys;
$("key").value = api.key.get();
const load = () => subjects.load().catch((error) => refused(error));
$("access").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("change", () => {
  api.key.set($("key").value.trim());
  Field.clear();
  load();
});
for (const picture of await memory.pictures()) {
  remember({ ...picture, url: URL.createObjectURL(picture.blob) });
}
moved();
chosen(subjects.chosen);
if (!served.keys || api.key.get()) await load();
document.documentElement.dataset.ready = "true";
