// The gate over the steps: the same all along, a ramp between two settings of the dial, or a window of the steps.

const $ = (id) => document.getElementById(id);
const FIELDS = { linear: ["first", "last"], window: ["start", "end"] };
const BEGINS = { first: 1, last: 0.2, start: 0.2, end: 0.8 };
const POINTS = 60; // of the curve that is shown

export class Schedule {
  /** `changed` is called when another one is chosen or its values move, `released` when they are let go. */
  constructor(changed, released) {
    $("schedule").addEventListener("change", () => {
      this.#fields();
      changed();
      released();
    });
    for (const name of Object.keys(BEGINS)) {
      $(name).value = BEGINS[name];
      $(name).addEventListener("input", () => {
        this.#order(name);
        changed();
      });
      $(name).addEventListener("change", released);
    }
    this.#fields();
  }

  /** As a request says it; null is the same all along. */
  get value() {
    const type = $("schedule").value;
    if (type === "constant") return null;
    return { type, ...Object.fromEntries(FIELDS[type].map((name) => [name, Number($(name).value)])) };
  }

  set value(schedule) {
    $("schedule").value = schedule?.type ?? "constant";
    for (const name of FIELDS[schedule?.type] ?? []) $(name).value = schedule[name];
    this.#fields();
  }

  /** Draws how both weights go, from the first step to the last. */
  draw(member) {
    const places = Array.from({ length: POINTS }, (_, i) => i / (POINTS - 1));
    for (const weight of ["preservation", "personalization"]) {
      const points = places.map((x) => `${(x * 100).toFixed(1)} ${(28 - 26 * at(member, weight, x)).toFixed(1)}`);
      $(`curve-${weight}`).setAttribute("d", `M${points.join("L")}`);
    }
  }

  #fields() {
    const type = $("schedule").value;
    for (const name of Object.keys(FIELDS)) $(`schedule-${name}`).hidden = name !== type;
    this.#order("start");
  }

  /** A window that ends before it begins is none: the other side is pushed along. */
  #order(moved) {
    const [start, end] = [Number($("start").value), Number($("end").value)];
    if (start > end) $(moved === "end" ? "start" : "end").value = moved === "end" ? end : start;
    for (const name of Object.keys(BEGINS)) $(`${name}-is`).value = Number($(name).value).toFixed(2);
  }
}

function at({ schedule, ...weights }, weight, x) {
  if (schedule?.type === "linear") {
    const gate = schedule.first + (schedule.last - schedule.first) * x;
    return weight === "preservation" ? gate : 1 - gate;
  }
  return schedule?.type === "window" && (x < schedule.start || x > schedule.end) ? 0 : weights[weight];
}
