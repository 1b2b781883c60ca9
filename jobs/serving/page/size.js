// The size of the picture: a shape with about as many pixels as the model's own, or any other by its sides.

const $ = (id) => document.getElementById(id);
const SHAPES = [["Square", 1], ["Landscape", 3 / 2], ["Wide", 16 / 9], ["Portrait", 2 / 3], ["Tall", 9 / 16]];
const SIDES = ["width", "height"];

export const sidesOf = (words) => words.split("x").map(Number);
export const named = (words) => words.replace("x", " × ");

export class Size {
  /** `sizes` is what the service tells of them; `changed` is called when another one that it draws is chosen. */
  constructor(sizes, changed) {
    Object.assign(this, { sizes, changed });
    const options = shapes(sizes).map(([words, name]) => new Option(`${name}, ${named(words)}`, words));
    $("size").replaceChildren(...options, new Option("Other", ""));
    $("size").addEventListener("change", () => this.#turn());
    for (const side of SIDES) {
      $(side).min = $(side).step = sizes.multiples_of;
      $(side).addEventListener("change", () => this.#turn());
    }
    this.value = sizes.own;
  }

  /** As a request says it, right or wrong. */
  get value() {
    return $("size").value || SIDES.map((side) => $(side).value).join("x");
  }

  set value(words) {
    $("size").value = words;
    if ($("size").selectedIndex < 0) $("size").value = "";
    sidesOf(words).forEach((side, i) => ($(SIDES[i]).value = side));
    this.#fields();
  }

  get sides() {
    return sidesOf(this.value);
  }

  #turn() {
    if ($("size").value) this.value = $("size").value; // another size begins from there
    this.#fields();
    if (this.#isDrawn) this.changed();
  }

  #fields() {
    const other = $("size").value === "";
    $("size").parentElement.classList.toggle("alone", !other);
    for (const side of SIDES) $(side).parentElement.hidden = !other;
  }

  get #isDrawn() {
    const [width, height] = this.sides, { multiples_of, most_pixels } = this.sizes;
    return [width, height].every((side) => side > 0 && side % multiples_of === 0) && width * height <= most_pixels;
  }
}

/** [size, name] of the shapes that are drawn. Of a small model some are the same, and the first gives the name. */
function shapes({ own, multiples_of, most_pixels }) {
  const area = sidesOf(own).reduce((width, height) => width * height);
  const round = (side) => Math.max(1, Math.round(side / multiples_of)) * multiples_of;
  const all = SHAPES.map(([name, aspect]) => [[round(Math.sqrt(area * aspect)), round(Math.sqrt(area / aspect))], name]);
  const drawn = all.filter(([[width, height]]) => width * height <= most_pixels).map(([it, name]) => [it.join("x"), name]);
  return drawn.filter(([words], place) => drawn.findIndex(([other]) => other === words) === place);
}
