// The card of the canvas and the area of the picture: which of the two is shown, and the tools of the brush.

import { Canvas } from "./canvas.js";
import { Field, plain } from "./fields.js";

const $ = (id) => document.getElementById(id);

export class Easel {
  /** `stage` shows the pictures, which have these sides [px]; `changed` is called when the canvas changes. */
  constructor(stage, sides, served, changed) {
    Object.assign(this, { stage, served, changed });
    this.canvas = new Canvas($("paint"), sides, () => this.#changed());
    this.version = 0; // counts changes of the canvas
    $("canvas-file").addEventListener("change", () => {
      this.take($("canvas-file").files[0]);
      $("canvas-file").value = "";
    });
    $("canvas-shown").addEventListener("click", () => this.take(stage.picture.blob));
    $("canvas-away").addEventListener("click", () => this.canvas.close());
    $("canvas-all").addEventListener("click", () => this.canvas.fill(true));
    $("canvas-none").addEventListener("click", () => this.canvas.fill(false));
    $("canvas-undo").addEventListener("click", () => this.canvas.undo());
    $("brush").addEventListener("input", () => (this.canvas.brush = Number($("brush").value)));
    $("strength").addEventListener("input", () => this.#strength());
    for (const radio of document.querySelectorAll("[name=tool]")) {
      radio.addEventListener("change", () => (this.canvas.erases = radio.value === "erase"));
    }
    for (const radio of document.querySelectorAll("[name=shown]")) {
      radio.addEventListener("change", () => this.show(radio.value === "mask"));
    }
  }

  get isOpen() {
    return this.canvas.isOpen;
  }

  /** Opens a picture to paint into, and says beside the card what is wrong with it. */
  async take(file, mask = null) {
    if (!file) return;
    Field.clear();
    try {
      await this.canvas.open(file, mask);
    } catch (refusal) {
      return Field.of("canvas").wrong(plain(refusal, this.served));
    }
    $("canvas").open = true;
    this.show(true);
    $("stage").scrollIntoView({ block: "nearest" });
  }

  /** The mask to be painted, or the picture that was drawn. */
  show(mask) {
    const painting = mask && this.isOpen;
    if (painting) this.stage.shape(this.canvas.sides);
    $("stage").classList.toggle("painting", painting);
    $("paint").hidden = !painting;
    document.querySelector(`[name=shown][value=${painting ? "mask" : "picture"}]`).checked = true;
  }

  /** Another size of the pictures: the canvas is cut anew. */
  resize(sides) {
    this.canvas.resize(sides);
    if (!$("paint").hidden) this.stage.shape(sides);
  }

  /** The files of a request and the strength; null without a canvas. */
  async asked() {
    return this.isOpen ? { ...(await this.canvas.files()), strength: Number($("strength").value) } : null;
  }

  /** As it was when a picture was drawn. */
  async restore(canvas) {
    if (!canvas) return this.canvas.close();
    $("strength").value = canvas.strength;
    this.#strength();
    await this.take(canvas.image, canvas.mask);
    this.show(false);
  }

  #strength() {
    $("strength-is").value = Number($("strength").value).toFixed(2);
    this.#changed();
  }

  #changed() {
    this.version++;
    for (const id of ["canvas-tools", "canvas-away", "canvas-view"]) $(id).hidden = !this.isOpen;
    if (!this.isOpen) this.show(false);
    this.changed();
  }
}
