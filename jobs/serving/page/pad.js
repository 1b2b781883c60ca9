// The pad: a handle in a square, up is preservation, right is personalization. On the dial it keeps to the diagonal.

const STEP = 0.05;
const ARROWS = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };

const within = (value) => Math.min(1, Math.max(0, Math.round(value * 100) / 100));

export class Pad {
  /** `moved` is called while the handle moves, `released` when it is let go. */
  constructor(pad, moved, released) {
    const [plane, handle, marks] = [".field", "[role=slider]", "#marks"].map((part) => pad.querySelector(part));
    Object.assign(this, { pad, plane, handle, marks, moved, released });
    this.dial = false;
    this.set(0.5, 0.5);
    pad.addEventListener("pointerdown", (event) => this.#grab(event));
    handle.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Puts the handle somewhere without a word to anybody. */
  set(preservation, personalization) {
    this.preservation = within(preservation);
    this.personalization = this.dial ? within(1 - this.preservation) : within(personalization);
    place(this.handle, this);
    const said = `preservation ${this.preservation.toFixed(2)}, personalization ${this.personalization.toFixed(2)}`;
    this.handle.setAttribute("aria-valuenow", this.preservation);
    this.handle.setAttribute("aria-valuetext", said);
  }

  keepToDial(dial) {
    this.dial = dial;
    this.pad.classList.toggle("dial", dial);
    this.set(dial ? (1 + this.preservation - this.personalization) / 2 : this.preservation, this.personalization);
  }

  /** Leaves a small picture where it was drawn; a press on it calls `show`. */
  mark(url, { preservation, personalization }, show) {
    const button = document.createElement("button");
    button.type = "button";
    button.title = `${preservation.toFixed(2)} / ${personalization.toFixed(2)}`;
    button.setAttribute("aria-label", `Picture at ${button.title}`);
    button.append(Object.assign(new Image(), { src: url, alt: "" }));
    place(button, { preservation, personalization });
    button.addEventListener("pointerdown", (event) => event.stopPropagation());
    button.addEventListener("click", show);
    this.marks.append(button);
  }

  clear() {
    this.marks.replaceChildren();
  }

  #grab(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.handle.focus({ preventScroll: true });
    this.pad.setPointerCapture(event.pointerId);
    const follow = (event) => {
      const box = this.plane.getBoundingClientRect();
      this.#move((event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height);
    };
    follow(event);
    this.pad.addEventListener("pointermove", follow);
    const end = () => {
      this.pad.removeEventListener("pointermove", follow);
      this.released();
    };
    this.pad.addEventListener("lostpointercapture", end, { once: true });
  }

  #press(event) {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    const step = event.shiftKey ? STEP / 5 : STEP;
    this.#move(this.personalization + arrow[0] * step, this.preservation + arrow[1] * step);
  }

  #move(right, up) {
    this.set(this.dial ? (1 + up - right) / 2 : up, right);
    this.moved();
  }
}

function place(element, { preservation, personalization }) {
  element.style.left = `${personalization * 100}%`;
  element.style.top = `${(1 - preservation) * 100}%`;
}
