// The large picture, and the receipt beside it.

import { inWords } from "./person.js";
import { named } from "./size.js";

const $ = (id) => document.getElementById(id);
const SMALL = 200; // [px] up to which a picture is shown with its own pixels, instead of a blur

const weight = (value) => (Array.isArray(value) ? `${value.length} values over the steps` : value.toFixed(2));

/** A small picture to press. */
export function pictureButton(picture, pressed) {
  const button = Object.assign(document.createElement("button"), { type: "button", picture });
  button.title = picture.receipt.prompt;
  button.setAttribute("aria-label", `Show: ${picture.receipt.prompt}, seed ${picture.receipt.seed}`);
  button.append(Object.assign(new Image(), { src: picture.url, alt: "" }));
  button.addEventListener("click", pressed);
  return button;
}

export class Stage {
  picture = null;
  #coming = null; // URL of the preview that is shown

  /** What is drawn next has these sides; boxes and masks lie on a sheet of that shape. */
  shape([width, height]) {
    $("sheet").style.setProperty("--shape", width / height);
  }

  /** Something is being drawn; until its first preview, the subject stands there. */
  begin(subject) {
    $("stage").classList.remove("empty");
    $("stage").classList.add("drawing");
    $("progress").hidden = false;
    $("progress").style.setProperty("--done", "4%");
    if (!this.picture && subject) this.#put(subject, "The subject", false);
  }

  preview(blob, part) {
    const url = URL.createObjectURL(blob);
    this.#put(url, "Preview");
    if (this.#coming) URL.revokeObjectURL(this.#coming);
    this.#coming = url;
    $("progress").style.setProperty("--done", `${part * 100}%`);
  }

  done() {
    $("progress").style.setProperty("--done", "100%");
  }

  /** Nothing is being drawn any more; what is shown is the last whole picture. */
  idle() {
    $("stage").classList.remove("drawing");
    $("progress").hidden = true;
    if (this.picture) this.#put(this.picture.url, this.picture.receipt.prompt);
    else {
      $("picture").hidden = true;
      $("stage").classList.add("empty");
    }
  }

  show(picture) {
    this.picture = picture;
    $("stage").classList.remove("empty", "drawing");
    this.#put(picture.url, picture.receipt.prompt);
    $("download").href = picture.url;
    $("download").download = `flexip-${picture.receipt.seed}.png`;
    $("receipt-empty").hidden = true;
    $("receipt-actions").hidden = $("repeat").hidden = false;
    $("receipt").replaceChildren(...facts(picture.receipt));
  }

  #put(url, words, shapes = true) {
    const image = $("picture");
    image.onload = () => {
      $("stage").classList.toggle("small", image.naturalWidth <= SMALL);
      if (shapes) this.shape([image.naturalWidth, image.naturalHeight]);
    };
    image.src = url;
    image.alt = words;
    image.hidden = false;
  }
}

const sides = (box) => `, box ${box.map((side) => Math.round(side * 100)).join(" ")} %`;

function alone(subject) {
  if (!subject) return { Subject: "nobody" };
  return {
    Subject: subject.sha256.slice(0, 12) + (subject.box ? sides(subject.box) : ""),
    Person: inWords(subject),
    Preservation: weight(subject.preservation),
    Personalization: weight(subject.personalization),
  };
}

function several(subjects) {
  return Object.fromEntries(subjects.map(({ sha256, preservation, personalization, box, ...person }, place) => {
    const weights = `${weight(preservation)} / ${weight(personalization)}`, face = inWords(person);
    return [`Subject ${place + 1}`, `${sha256.slice(0, 12)}, ${weights}${box ? sides(box) : ""}${face && `, person: ${face}`}`];
  }));
}

function facts(receipt) {
  const said = {
    Prompt: receipt.prompt,
    Avoid: receipt.negative_prompt,
    ...(receipt.subjects.length > 1 ? several(receipt.subjects) : alone(receipt.subjects[0])),
    Canvas: receipt.canvas && `${receipt.canvas.sha256.slice(0, 12)}, strength ${receipt.canvas.strength.toFixed(2)}`,
    Size: receipt.size && `${named(receipt.size)} px`,
    Seed: String(receipt.seed),
    Steps: `${receipt.steps}, ${receipt.solver}`,
    Guidance: String(receipt.guidance_scale),
    Weights: receipt.weights.slice(0, 12),
    Model: `${receipt.model}, ${receipt.software}`,
  };
  return Object.entries(said)
    .filter(([, value]) => value)
    .flatMap(([name, value]) => ["dt", "dd"].map((tag, i) => {
      return Object.assign(document.createElement(tag), { textContent: [name, value][i] });
    }));
}
