// The page: what the fields say becomes requests, what the service draws becomes pictures.

import * as api from "./api.js";
import * as memory from "./memory.js";
import { described, fields, request } from "./asking.js";
import { Boxes } from "./boxes.js";
import { Cast, member } from "./cast.js";
import { Easel } from "./easel.js";
import { Field, fieldOf, memberOf, plain } from "./fields.js";
import { Pad } from "./pad.js";
import { Person } from "./person.js";
import { Schedule } from "./schedule.js";
import { Size } from "./size.js";
import { Stage, pictureButton } from "./stage.js";
import { Subjects } from "./subjects.js";
import { layOut } from "./sweep.js";

const $ = (id) => document.getElementById(id);
const served = await (await fetch("playground/service.json")).json();
$("model").replaceChildren(...Object.keys(served.models).map((name) => new Option(name)));
const stage = new Stage();
const pad = new Pad($("pad"), moved, released);
const schedule = new Schedule(turned, released);
const subjects = new Subjects($("subjects"), served.subjects, refused, picked);
const cast = new Cast($("cast"), $("more-subjects"), subjects.chosen, speakOfActive);
const boxes = new Boxes($("boxes"), cast, boxed, released);
const person = new Person(personal);
const size = new Size(Object.values(served.models)[0].sizes, resized);
const easel = new Easel(stage, size.sides, served, newSeries);

let running = null; // AbortController of what is being drawn
let series = ""; // all but the active subject's weights: pictures that differ in these alone share the pad
let drawn = false; // whether anything was drawn since the page was opened

const place = () => cast.drawn.indexOf(cast.active); // of the active subject among those that are drawn
const modelled = () => served.models[$("model").value]; // what the chosen model can
const way = () => document.querySelector("[name=way]:checked").value;

// ---- drawing ----

/** Draws one picture and tells `target` of it. `said` goes before what the active subject says of its gate. */
async function drawOne(said, target, signal) {
  const members = cast.drawn.map((it) => (it === cast.active ? { ...it, ...said } : { ...it }));
  const settings = { members, place: place(), cutOut: $("cut").checked, canvas: await easel.asked() };
  let shown = 0;
  for await (const event of api.draw(await requested(settings), signal, waits)) {
    if (event.receipt) return finished(event, settings, target);
    target.preview(event.blob, ++shown / 4);
  }
  throw new api.Refusal({ message: "The service broke off in the middle. Try again." });
}

async function requested({ members, cutOut, canvas }) {
  const ids = await Promise.all(members.map((it) => subjects.id(it.subject, cutOut)));
  const said = modelled().people ? members : members.map((it) => ({ ...it, person: false }));
  return request(fields(size.value), said.map((it, i) => described(it, ids[i])), canvas);
}

/** A subject that has expired on the way is uploaded once more. */
async function drawPatiently(said, target, signal) {
  try {
    return await drawOne(said, target, signal);
  } catch (refusal) {
    if (refusal.code !== "subject_not_found") throw refusal;
    for (const { subject } of cast.drawn) delete subject.ids[$("cut").checked];
    return drawOne(said, target, signal);
  }
}

function finished({ blob, receipt }, { members, place, canvas }, target) {
  const settings = { canvas, members: members.map(({ subject, ...more }) => ({ ...more, sha256: subject.sha256 })) };
  const picture = { blob, receipt, settings, time: Date.now() };
  memory.keepPicture({ ...picture });
  picture.url = URL.createObjectURL(blob);
  target.done(picture);
  const weights = receipt.subjects[place];
  if (weights && !Array.isArray(weights.preservation)) pad.mark(picture.url, weights, () => show(picture));
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
    if (easel.isOpen && easel.canvas.isEmpty) throw new api.Refusal({ message: "Paint where it may change, or press All of it.", param: "mask" });
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
    easel.show(false);
    stage.shape(size.sides);
    stage.begin(cast.active.subject.url);
    comeIntoView("stage");
    show(await drawPatiently({}, stage, signal));
  });
}

function sweepNow() {
  return run(async (signal) => {
    if (!cast.active.subject.ids) throw new api.Refusal({ message: "Pick a subject to sweep the dial over.", param: "subject" });
    const cells = layOut($("strip"), show);
    comeIntoView("compare");
    const part = cast.active.schedule?.type === "window" ? cast.active.schedule : null; // a ramp has no one setting
    const pictures = await Promise.all(cells.map((cell) => {
      const said = { preservation: cell.gate, personalization: 1 - cell.gate, schedule: part };
      return drawPatiently(said, cell, signal);
    }));
    if (!stage.picture) show(pictures[2]);
  });
}

/** On a narrow page, where the fields stand above the pictures. */
function comeIntoView(id) {
  if (innerWidth < 960) $(id).scrollIntoView({ block: "start", behavior: "smooth" });
}

// ---- what is said ----

function refused(error) {
  stage.idle();
  const whose = cast.drawn[memberOf(error.param)];
  if (whose) cast.activate(cast.members.indexOf(whose));
  Field.of(fieldOf(error.param)).wrong(plain(error, served));
}

function waits(seconds) {
  Field.of("ask").hint(`Others are being drawn. Trying again in ${seconds} s.`);
}

// ---- subjects, pad, schedule and boxes ----

/** Another subject is active: tiles, pad and schedule speak of it. */
function speakOfActive() {
  const { subject, preservation, personalization } = cast.active;
  subjects.mark(subject);
  if (Math.abs(preservation + personalization - 1) > 0.005) choose("free");
  pad.set(preservation, personalization);
  schedule.value = cast.active.schedule;
  $("boxed").checked = cast.active.box !== null;
  $("is-person").disabled = !subject.ids;
  person.value = cast.active;
  $("who").src = subject.url ?? "playground/icon.svg";
  moved();
  boxes.show();
}

function picked(subject) {
  cast.active.subject = subject;
  cast.refresh();
  speakOfActive();
}

function moved() {
  for (const name of ["preservation", "personalization"]) {
    cast.active[name] = $(name).value = pad[name];
    $(`${name}-is`).value = pad[name].toFixed(2);
  }
  turned();
}

function turned() {
  cast.active.schedule = schedule.value;
  const ramp = cast.active.schedule?.type === "linear";
  $("pad").inert = ramp; // a ramp brings the dial's values itself
  for (const name of ["preservation", "personalization"]) $(name).disabled = ramp;
  schedule.draw(cast.active);
  newSeries();
}

function released() {
  if (drawn && $("eager").checked && cast.drawn.length) drawNow();
}

function boxed(which) {
  const sides = cast.members[which].box.map((side) => Math.round(side * 100));
  Field.of("subject").hint(`Subject ${which + 1} acts from ${sides[0]}, ${sides[1]} to ${sides[2]}, ${sides[3]} %`);
  newSeries();
}

function personal() {
  Object.assign(cast.active, person.value);
  newSeries();
}

function remodelled() {
  person.drawn = modelled().people;
  person.value = cast.active;
  newSeries();
}

function resized() {
  easel.resize(size.sides);
  stage.shape(size.sides);
  newSeries();
}

function newSeries() {
  const others = cast.members.map(({ subject, preservation, personalization, ...more }, i) => {
    return [subject.sha256, more, ...(i === cast.place ? [] : [preservation, personalization])];
  });
  const now = JSON.stringify([others, cast.place, easel.version, $("cut").checked, fields(size.value)]);
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
$("model").addEventListener("change", remodelled);
$("boxed").addEventListener("change", () => {
  cast.active.box = $("boxed").checked ? [0.2, 0.1, 0.8, 0.95] : null;
  boxes.show();
  newSeries();
});

// ---- pictures ----

function show(picture) {
  easel.show(false);
  stage.show(picture);
  $("canvas-shown").disabled = false;
  for (const button of document.querySelectorAll("#history button, #strip button")) {
    button.setAttribute("aria-current", button.picture === picture);
  }
  const weights = picture.receipt.subjects[place()];
  if (picture.receipt.subjects.length !== cast.drawn.length || !weights || Array.isArray(weights.preservation)) return;
  if (Math.abs(weights.preservation + weights.personalization - 1) > 0.005) choose("free");
  pad.set(weights.preservation, weights.personalization);
  moved();
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

async function useAgain() {
  const picture = stage.picture, { receipt } = picture;
  $("prompt").value = receipt.prompt;
  $("negative").value = receipt.negative_prompt;
  $("seed").value = receipt.seed;
  $("steps").value = receipt.steps;
  $("guidance").value = receipt.guidance_scale;
  $("solver").value = receipt.solver;
  if (receipt.model in served.models) $("model").value = receipt.model;
  if (receipt.size) size.value = receipt.size;
  resized();
  if (receipt.subjects.length) $("cut").checked = receipt.subjects[0].cut_out;
  const asked = picture.settings ?? { members: receipt.subjects.map(constant), canvas: null }; // of an earlier page
  await easel.restore(asked.canvas);
  remodelled();
  const known = asked.members.map(({ sha256, ...more }) => [subjects.bySha256(sha256), more]).filter(([it]) => it);
  cast.set(known.length ? known.map(([subject, more]) => member(subject, more)) : [member(subjects.all[0])]);
  if (known.length < asked.members.length) Field.of("subject").wrong("This browser no longer has all subjects of that picture.");
  show(picture);
}

/** What a receipt says of a subject; a schedule is only known to the page that asked for it. */
function constant({ preservation, personalization, cut_out, mask, ...more }) {
  return Array.isArray(preservation) ? more : { ...more, preservation, personalization };
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
  if (event.target.closest("#stage")) easel.take(event.dataTransfer.files[0]);
  else upload(event.dataTransfer.files[0]);
});

// ---- at the start ----

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
remodelled();
speakOfActive();
if (!served.keys || api.key.get()) await load();
document.documentElement.dataset.ready = "true";
