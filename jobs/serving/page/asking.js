// From what the fields say to a request: JSON for a picture from nothing, a form for one that is painted into a canvas.

const $ = (id) => document.getElementById(id);
const PREVIEWS = 3;

const number = (id) => ($(id).value.trim() === "" ? null : Number($(id).value));

/** What the fields say beside subjects and canvas. */
export function fields(size) {
  const said = {
    model: $("model").value,
    size,
    prompt: $("prompt").value,
    num_inference_steps: number("steps"),
    guidance_scale: number("guidance"),
    negative_prompt: $("negative").value,
    solver: $("solver").value,
  };
  return number("seed") === null ? said : { ...said, seed: number("seed") };
}

/** What a request says of one subject, `id` being its name at the service. A ramp brings the dial's values itself. */
export function described({ preservation, personalization, schedule, box, person, expression, pose }, id) {
  const weights = schedule?.type === "linear" ? {} : { preservation, personalization };
  const whose = person ? { person, expression, pose } : {};
  return { subject_id: id, ...weights, ...(schedule && { schedule }), ...(box && { box }), ...whose };
}

/** The route and the body; `canvas` is null or its two files and the strength. */
export function request(said, subjects, canvas) {
  const body = { ...said, stream: true, partial_images: PREVIEWS };
  if (!canvas) {
    const headers = { "content-type": "application/json" };
    return { path: "v1/images/generations", headers, body: JSON.stringify({ ...body, subjects }) };
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) form.append(name, value ?? "");
  form.append("subjects", JSON.stringify(subjects));
  form.append("strength", canvas.strength);
  form.append("image", canvas.image, "canvas.png");
  form.append("mask", canvas.mask, "mask.png");
  return { path: "v1/images/edits", body: form };
}
