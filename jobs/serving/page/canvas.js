// A picture to paint into, and the mask that says where: painted by pointer or by keys, with undo.

import { Refusal } from "./api.js";

const KEPT = 24; // masks that undo goes back over
const FINE = 512; // [px] of the view at least, so that the brush is sharp over a small picture too
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };
const TINT = "#d8482e";

const surface = ([width, height]) => Object.assign(document.createElement("canvas"), { width, height });
const png = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

export class Canvas {
  #source = null; // the picture as it was given
  #image = null; // its middle, of the sides of the pictures
  #mask; // white where it is painted
  #before = []; // masks that were, the newest last
  #at; // [px] where the brush is

  /** `view` is the canvas on the page, `sides` [px] those of the pictures; `changed` is called after each stroke. */
  constructor(view, sides, changed) {
    Object.assign(this, { view, changed, brush: 0.12, erases: false });
    this.#lay(sides);
    view.addEventListener("pointerdown", (event) => this.#stroke(event));
    view.addEventListener("pointermove", (event) => this.#hover(event));
    view.addEventListener("pointerleave", () => this.draw(false));
    view.addEventListener("keydown", (event) => this.#press(event));
    view.addEventListener("blur", () => this.draw(false));
    view.addEventListener("focus", () => this.draw());
  }

  get isOpen() {
    return this.#image !== null;
  }

  get isEmpty() {
    return !this.#pixels().data.some((value, i) => i % 4 === 3 && value > 0);
  }

  /** Takes the middle of a picture, of the shape of those that are drawn. Throws a Refusal for what is none. */
  async open(blob, mask = null) {
    let image, painted;
    try {
      image = await createImageBitmap(blob);
      painted = mask && (await createImageBitmap(mask));
    } catch {
      throw new Refusal({ message: "This is no picture that a browser can read.", param: "canvas" });
    }
    this.#source = image;
    this.#cut();
    this.#clear();
    if (painted) this.#restore(painted);
    this.draw(false);
    this.changed();
  }

  /** Pictures have other sides now: it is cut anew, and the mask goes along. */
  resize(sides) {
    const mask = this.#mask;
    this.#lay(sides);
    if (!this.#source) return;
    this.#mask.getContext("2d").drawImage(mask, 0, 0, ...sides);
    this.#cut();
    this.draw(false);
  }

  close() {
    this.#source = this.#image = null;
    this.#clear();
    this.changed();
  }

  /** The two files of a request: the picture, and the mask, white where it is painted. */
  async files() {
    const mask = surface(this.sides), context = mask.getContext("2d");
    context.fillRect(0, 0, ...this.sides);
    context.drawImage(this.#mask, 0, 0);
    return { image: await png(this.#image), mask: await png(mask) };
  }

  /** Paints all of it, or nothing. */
  fill(all) {
    this.#remember();
    this.#clear();
    const context = this.#mask.getContext("2d");
    context.fillStyle = "#fff";
    if (all) context.fillRect(0, 0, ...this.sides);
    this.#done();
  }

  undo() {
    if (!this.#before.length) return;
    this.#mask.getContext("2d").putImageData(this.#before.pop(), 0, 0);
    this.#done();
  }

  /** The picture with the mask on it, and the brush where it would paint. */
  draw(withBrush = true) {
    if (!this.#image) return;
    const scale = this.view.width / this.sides[0];
    const context = this.view.getContext("2d"), tinted = surface(this.sides), tint = tinted.getContext("2d");
    tint.drawImage(this.#mask, 0, 0);
    tint.globalCompositeOperation = "source-in";
    tint.fillStyle = TINT;
    tint.fillRect(0, 0, ...this.sides);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.imageSmoothingEnabled = false; // a picture of few pixels shows them, as on the stage
    context.drawImage(this.#image, 0, 0);
    context.globalAlpha = 0.55;
    context.drawImage(tinted, 0, 0);
    context.globalAlpha = 1;
    if (withBrush) ring(context, this.#at, this.#radius, scale);
  }

  get #radius() {
    return (this.brush * Math.min(...this.sides)) / 2;
  }

  /** An empty mask of these sides. */
  #lay(sides) {
    const scale = Math.max(1, Math.ceil(FINE / Math.max(...sides)));
    Object.assign(this.view, { width: sides[0] * scale, height: sides[1] * scale });
    this.sides = sides;
    this.#mask = surface(sides);
    this.#at = sides.map((side) => side / 2);
  }

  #cut() {
    const { width, height } = this.#source, [right, bottom] = this.sides;
    const scale = Math.min(width / right, height / bottom), part = this.sides.map((side) => side * scale);
    this.#image = surface(this.sides);
    const context = this.#image.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, right, bottom);
    context.drawImage(this.#source, (width - part[0]) / 2, (height - part[1]) / 2, ...part, 0, 0, right, bottom);
    this.#before = [];
  }

  #pixels() {
    return this.#mask.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, ...this.sides);
  }

  #clear() {
    this.#mask.getContext("2d", { willReadFrequently: true }).clearRect(0, 0, ...this.sides);
  }

  /** A mask as `files` gives it, black and white, becomes white and transparent again. */
  #restore(bitmap) {
    const context = this.#mask.getContext("2d");
    context.drawImage(bitmap, 0, 0, ...this.sides);
    const pixels = this.#pixels();
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i];
      pixels.data.fill(255, i, i + 3);
    }
    context.putImageData(pixels, 0, 0);
  }

  #remember() {
    this.#before = [...this.#before, this.#pixels()].slice(-KEPT);
  }

  #done() {
    this.draw(document.activeElement === this.view);
    this.changed();
  }

  #point({ clientX, clientY }) {
    const box = this.view.getBoundingClientRect();
    const [width, height] = this.sides;
    return [((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height];
  }

  #line(from, to) {
    const context = this.#mask.getContext("2d");
    context.globalCompositeOperation = this.erases ? "destination-out" : "source-over";
    Object.assign(context, { lineCap: "round", lineWidth: 2 * this.#radius, strokeStyle: "#fff" });
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(to[0] + 0.01, to[1]); // a line of no length paints nothing
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  #stroke(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.view.focus({ preventScroll: true });
    this.view.setPointerCapture(event.pointerId);
    this.#remember();
    const follow = (event) => {
      const to = this.#point(event);
      this.#line(this.#at, to);
      this.#at = to;
      this.draw();
    };
    this.#at = this.#point(event);
    follow(event);
    this.view.addEventListener("pointermove", follow);
    const end = () => {
      this.view.removeEventListener("pointermove", follow);
      this.#done();
    };
    this.view.addEventListener("lostpointercapture", end, { once: true });
  }

  #hover(event) {
    if (event.buttons) return;
    this.#at = this.#point(event);
    this.draw();
  }

  #press(event) {
    const arrow = ARROWS[event.key], undoes = event.key === "z" && (event.ctrlKey || event.metaKey);
    if (!arrow && event.key !== " " && !undoes) return;
    event.preventDefault();
    if (undoes) return this.undo();
    const from = this.#at, step = this.#radius / 2;
    if (arrow) this.#at = from.map((value, axis) => Math.min(this.sides[axis], Math.max(0, value + arrow[axis] * step)));
    if (!arrow || event.shiftKey) {
      this.#remember();
      this.#line(from, this.#at);
      return this.#done();
    }
    this.draw();
  }
}

function ring(context, [x, y], radius, scale) {
  for (const [colour, width] of [["#000a", 3], ["#fff", 1.5]]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width / scale });
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}
