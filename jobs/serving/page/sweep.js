// The strip of pictures side by side, one for each setting of the dial.

export const SETTINGS = [0, 0.25, 0.5, 0.75, 1];

/** Lays out an empty strip; `show` is called with a picture that is pressed. */
export function layOut(strip, show) {
  const cells = SETTINGS.map((gate) => new Cell(gate, show));
  strip.replaceChildren(...cells.map((cell) => cell.element));
  return cells;
}

/** One place of the strip. */
class Cell {
  constructor(gate, show) {
    Object.assign(this, { gate, show });
    this.element = document.createElement("li");
    this.button = Object.assign(document.createElement("button"), { type: "button", disabled: true });
    this.button.setAttribute("aria-label", `Gate ${gate}`);
    this.image = new Image();
    this.image.alt = "";
    const caption = Object.assign(document.createElement("span"), { textContent: `gate ${gate}` });
    this.element.append(this.button, caption);
    this.element.className = "drawing";
  }

  preview(blob) {
    if (!this.image.parentNode) this.button.append(this.image);
    const url = URL.createObjectURL(blob);
    this.image.onload = () => URL.revokeObjectURL(url);
    this.image.src = url;
  }

  done(picture) {
    this.preview(picture.blob);
    this.element.className = "";
    this.button.disabled = false;
    this.button.picture = picture;
    this.button.addEventListener("click", () => this.show(picture));
  }
}
