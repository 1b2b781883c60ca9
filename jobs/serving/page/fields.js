// What is said beside a field: its hint, or in plain words what is wrong with it.

const FIELDS = { // of a request -> [the line that speaks of it, the inputs that are wrong]
  prompt: ["prompt", "prompt"],
  negative_prompt: ["negative", "negative"],
  solver: ["negative", "solver"],
  model: ["negative", "model"],
  seed: ["numbers", "seed"],
  num_inference_steps: ["numbers", "steps"],
  size: ["numbers", "width"],
  guidance_scale: ["numbers", "guidance"],
  gate: ["gate"],
  preservation: ["gate", "preservation"],
  personalization: ["gate", "personalization"],
  subject: ["subject", "upload"],
  image: ["subject", "upload"],
  subject_id: ["subject"],
  subjects: ["subject"],
  box: ["subject", "boxed"],
  person: ["subject", "is-person"],
  expression: ["subject", "expression"],
  pose: ["subject", "pose"],
  schedule: ["gate", "schedule"],
  first: ["gate", "first"],
  last: ["gate", "last"],
  start: ["gate", "start"],
  end: ["gate", "end"],
  canvas: ["canvas", "canvas-file"],
  mask: ["canvas", "canvas-all"],
  strength: ["canvas", "strength"],
  authorization: ["key", "key"],
};

/** The name of a field in an error: subjects[0].gate speaks of the gate; of a form, the first upload is the canvas. */
export const fieldOf = (param) => {
  return param === "image[0]" ? "canvas" : (param ?? "").split(".").pop().replace(/\[\d+\]$/, "");
};

/** Which of the subjects an error speaks of: subjects[1].gate of the second, 1. */
export const memberOf = (param) => /^subjects\[(\d+)\]/.exec(param ?? "")?.[1];

/** A line of words beside a field. */
export class Field {
  static of(name) {
    const [line, input] = FIELDS[name] ?? ["ask"];
    return new Field(document.getElementById(`${line}-says`), document.getElementById(input));
  }

  /** All lines say their hints again. */
  static clear() {
    for (const line of document.querySelectorAll(".says")) new Field(line).hint(line.dataset.hint);
    for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }

  constructor(line, input = null) {
    Object.assign(this, { line, input });
  }

  hint(text) {
    this.line.classList.remove("wrong");
    this.line.textContent = text.trim() || "\u00a0";
  }

  wrong(text) {
    this.line.classList.add("wrong");
    this.line.textContent = text;
    const details = this.input?.closest("details");
    if (details) details.open = true;
    this.input?.setAttribute("aria-invalid", "true");
    this.input?.focus();
  }
}

const LABELS = { seed: "Seed", num_inference_steps: "Steps", guidance_scale: "Guidance", strength: "Strength" };

/** The service's message for people who fill in a form: without the field's path, which they see, and what they typed. */
export function plain(error, served) {
  if (error.status === 401) return error.message.includes("missing") ? "Give a key first." : "The service does not know this key.";
  if (error.code === "too_many_pixels") return `The picture is too large: ${served.limits.image_megapixels} megapixels at most.`;
  if (error.status === 413) return `The file is too large: ${served.limits.body_mb} MB at most.`;
  const name = fieldOf(error.param);
  if (/WIDTHxHEIGHT/.test(error.message)) return "Width and height should be whole numbers of pixels.";
  let text = error.message;
  if (error.param) text = text.replace(/^[^:]*: /, "").replace(/^(input|value) should/, "should");
  if (/valid (integer|number)|got nan/i.test(text) && LABELS[name]) text = "should be a number";
  const label = LABELS[name];
  text = label ? `${label} ${text.startsWith("should") ? "" : ": "}${text}` : text.charAt(0).toUpperCase() + text.slice(1);
  return text.endsWith(".") ? text : `${text}.`;
}
