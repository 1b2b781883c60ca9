// The boxes on the picture: where each subject may act. Drag one, or its corner, or a new one; arrow keys move it, with
// Shift they move its lower right corner.

const STEP = 0.02;
const LEAST = 0.06; // side of a box, as a fraction of the picture
const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };

const within = (value, low, high) => Math.min(high, Math.max(low, Math.round(value * 1000) / 1000));
const percent = (value) => `${Math.round(value * 100)} %`;

export class Boxes {
  /** `changed` is called with a place while its box changes, `released` when it is let go. */
  constructor(layer, cast, changed, released) {
    Object.assign(this, { layer, cast, changed, released });
    layer.addEventListener("pointerdown", (event) => this.#grab(event));
    layer.addEventListener("keydown", (event) => this.#press(event));
    layer.addEventListener("focusin", (event) => this.#focus(event));
  }

  /** Draws them anew, or moves those that are there, so that one that has the focus keeps it. */
  show() {
    const boxed = this.cast.members.map((it, place) => [it, place]).filter(([it]) => it.box);
    this.layer.hidden = boxed.length === 0;
    const there = new Map([...this.layer.children].map((box) => [Number(box.dataset.place), box]));
    for (const [{ box, subject }, place] of boxed) {
      const element = there.get(place) ?? this.layer.appendChild(frame(place));
      there.delete(place);
      put(element, box, subject, place === this.cast.place);
    }
    there.forEach((element) => element.remove());
  }

  #set(place, [left, top, right, bottom]) {
    this.cast.members[place].box = [left, top, right, bottom];
    this.show();
    this.changed(place);
  }

  #move(place, [left, top, right, bottom], x, y) {
    const [width, height] = [right - left, bottom - top];
    const [newLeft, newTop] = [within(left + x, 0, 1 - width), within(top + y, 0, 1 - height)];
    this.#set(place, [newLeft, newTop, within(newLeft + width, 0, 1), within(newTop + height, 0, 1)]);
  }

  #stretch(place, [left, top, right, bottom], x, y) {
    this.#set(place, [left, top, within(right + x, left + LEAST, 1), within(bottom + y, top + LEAST, 1)]);
  }

  #focus({ target }) {
    const place = Number(target.dataset.place);
    if (target !== this.layer && place !== this.cast.place) this.cast.activate(place);
  }

  #press(event) {
    const arrow = ARROWS[event.key], place = Number(event.target.dataset.place);
    if (!arrow || Number.isNaN(place)) return;
    event.preventDefault();
    const [x, y] = arrow.map((direction) => direction * STEP);
    const box = this.cast.members[place].box;
    if (event.shiftKey) this.#stretch(place, box, x, y);
    else this.#move(place, box, x, y);
    this.released();
  }

  /** A box is moved, its corner stretches it, and a drag beside all of them draws that of the active subject anew. */
  #grab(event) {
    const element = event.target.closest(".box");
    if (event.button !== 0 || (!element && !this.cast.active.box)) return;
    event.preventDefault();
    const area = this.layer.getBoundingClientRect();
    const at = ({ clientX, clientY }) => [(clientX - area.left) / area.width, (clientY - area.top) / area.height];
    const from = at(event), place = element ? Number(element.dataset.place) : this.cast.place;
    (element ?? this.layer.querySelector(`[data-place="${place}"]`)).focus({ preventScroll: true });
    const box = this.cast.members[place].box, corner = event.target.matches(".corner-handle");
    const follow = (event) => {
      const [x, y] = at(event);
      if (!element) this.#between(place, from, [x, y]);
      else if (corner) this.#stretch(place, box, x - from[0], y - from[1]);
      else this.#move(place, box, x - from[0], y - from[1]);
    };
    this.layer.setPointerCapture(event.pointerId);
    this.layer.addEventListener("pointermove", follow);
    const end = () => {
      this.layer.removeEventListener("pointermove", follow);
      this.released();
    };
    this.layer.addEventListener("lostpointercapture", end, { once: true });
  }

  #between(place, from, to) {
    const sides = [0, 1].map((axis) => {
      const low = within(Math.min(from[axis], to[axis]), 0, 1 - LEAST);
      return [low, within(Math.max(from[axis], to[axis]), low + LEAST, 1)];
    });
    this.#set(place, [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]);
  }
}

function frame(place) {
  const box = document.createElement("div");
  Object.assign(box, { className: `box m${place}`, tabIndex: 0 });
  box.dataset.place = place;
  box.setAttribute("role", "group");
  box.setAttribute("aria-roledescription", "box");
  const corner = Object.assign(document.createElement("i"), { className: "corner-handle" });
  box.append(Object.assign(document.createElement("b"), { textContent: place + 1 }), corner);
  return box;
}

function put(element, [left, top, right, bottom], subject, active) {
  const sides = { left, top, width: right - left, height: bottom - top };
  for (const [name, value] of Object.entries(sides)) element.style[name] = `${value * 100}%`;
  element.classList.toggle("active", active);
  const words = [left, top, right, bottom].map(percent);
  element.setAttribute("aria-label", `Box of subject ${Number(element.dataset.place) + 1}, ${subject.name}: ${words.join(", ")}`);
}
