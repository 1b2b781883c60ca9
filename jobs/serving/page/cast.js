// Who comes into the picture: up to five subjects, each with weights, a schedule and a box of its own, or a person's
// expression and pose. One is active: the tiles, the pad and the schedule speak of it.

export const MOST = 5;

/** How a subject begins. */
export const member = (subject, more = {}) => ({
  subject, preservation: 0.5, personalization: 0.5, schedule: null, box: null, person: false, expression: "", pose: "", ...more,
});

export class Cast {
  members = [];
  #place = 0;

  /** `changed` is called when somebody came, left or became active. */
  constructor(row, button, first, changed) {
    Object.assign(this, { row, button, changed });
    this.members = [member(first)];
    button.addEventListener("click", () => this.add());
    this.#show();
  }

  get active() {
    return this.members[this.#place];
  }

  get place() {
    return this.#place;
  }

  /** Those who are drawn: nobody is none of them. */
  get drawn() {
    return this.members.filter((it) => it.subject.ids);
  }

  activate(place) {
    this.#place = Math.min(place, this.members.length - 1);
    this.#show();
    this.changed();
  }

  /** The same subject once more, until another tile is picked; several begin side by side, each in a box. */
  add() {
    const alone = this.members.length === 1 && !this.active.box;
    this.members.push(member(this.active.subject));
    if (alone || this.members.slice(0, -1).every((it) => it.box)) this.#sideBySide();
    this.activate(this.members.length - 1);
  }

  remove(place) {
    this.members.splice(place, 1);
    if (this.members.length === 1) this.members[0].box = null;
    this.activate(this.#place > place ? this.#place - 1 : this.#place);
  }

  set(members) {
    this.members = members;
    this.activate(0);
  }

  /** The tiles and the slots show the same pictures. */
  refresh() {
    this.#show();
  }

  #sideBySide() {
    const count = this.members.length;
    const round = (value) => Math.round(value * 100) / 100;
    this.members.forEach((it, place) => (it.box = [round(place / count), 0, round((place + 1) / count), 1]));
  }

  #show() {
    const focused = this.row.contains(document.activeElement);
    this.row.hidden = this.members.length === 1;
    this.button.disabled = this.members.length >= MOST;
    const slots = this.row.hidden ? [] : this.members.map((it, place) => this.#slot(it, place));
    this.row.replaceChildren(...slots);
    if (focused) (this.row.querySelector("input:checked") ?? this.button).focus();
  }

  #slot({ subject }, place) {
    const slot = document.createElement("label");
    slot.className = `slot m${place}`;
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "member", checked: place === this.#place });
    radio.setAttribute("aria-label", `Subject ${place + 1}: ${subject.name}`);
    radio.addEventListener("change", () => this.activate(place));
    const number = Object.assign(document.createElement("b"), { textContent: place + 1 });
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "×", title: "Leave it out" });
    button.setAttribute("aria-label", `Leave subject ${place + 1} out`);
    button.addEventListener("click", () => this.remove(place));
    slot.append(radio, subject.url ? Object.assign(new Image(), { src: subject.url, alt: "" }) : "?", number, button);
    return slot;
  }
}
