// The tiles of subjects: nobody, the creatures of the pocket world, and what was uploaded. One of them is picked.

import * as api from "./api.js";
import * as memory from "./memory.js";

export class Subjects {
  /** `says` shows a message beside the tiles, `changed` is called when another one is chosen. */
  constructor(tiles, creatures, says, changed) {
    Object.assign(this, { tiles, says, changed: () => {} });
    this.all = [{ name: "Nobody: the prompt alone" }, ...creatures.map((it) => ({ ...it, ids: {} }))];
    this.all.forEach((subject) => this.#tile(subject));
    this.choose(this.all[1]);
    this.changed = changed;
  }

  choose(subject) {
    this.mark(subject);
    this.changed(subject);
  }

  /** Shows which one is picked, without a word to anybody. */
  mark(subject) {
    this.chosen = subject;
    subject.tile.querySelector("input").checked = true;
  }

  bySha256(sha256) {
    return this.all.find((subject) => subject.sha256 === sha256);
  }

  /** Shows what the service keeps for this key. Their pictures are known to the browser that sent them alone. */
  async load() {
    const files = new Map((await memory.files()).map((it) => [it.sha256, it]));
    for (const kept of await api.subjects()) {
      let subject = this.bySha256(kept.sha256);
      if (!subject) {
        const known = files.get(kept.sha256);
        subject = { name: known?.name ?? `Subject ${kept.sha256.slice(0, 6)}`, sha256: kept.sha256, ids: {}, own: true };
        if (known) Object.assign(subject, { file: known.file, url: URL.createObjectURL(known.file) });
        this.all.push(subject);
        this.#tile(subject);
      }
      subject.ids[kept.cut_out] = kept.id;
    }
  }

  /** Uploads a picture and chooses it; one that is there already is not kept twice. */
  async add(file, cutOut) {
    const told = await api.addSubject(file, cutOut);
    let subject = this.bySha256(told.sha256);
    if (subject?.ids[cutOut]) {
      await api.removeSubject(told.id);
    } else if (subject) {
      subject.ids[cutOut] = told.id;
    } else {
      const url = URL.createObjectURL(file);
      subject = { name: file.name || "Pasted picture", sha256: told.sha256, ids: { [cutOut]: told.id }, own: true, file, url };
      this.all.push(subject);
      this.#tile(subject);
      memory.keepFile({ sha256: told.sha256, name: subject.name, file });
    }
    this.choose(subject);
  }

  /** What a request says of the chosen subject: an id, after an upload where it has none yet. */
  async id(subject, cutOut) {
    if (!subject.ids[cutOut]) {
      const file = subject.file ?? (subject.own ? null : await (await fetch(subject.url)).blob());
      if (!file) throw new api.Refusal({ message: "This picture has expired. Add it again.", param: "subject" });
      subject.uploading ??= api.addSubject(file, cutOut).finally(() => delete subject.uploading);
      subject.ids[cutOut] = (await subject.uploading).id;
    }
    return subject.ids[cutOut];
  }

  async #remove(subject) {
    await Promise.all(Object.values(subject.ids).map((id) => api.removeSubject(id)));
    memory.forgetFile(subject.sha256);
    subject.ids = null; // nobody from now on, wherever it was to appear
    subject.tile.remove();
    this.all = this.all.filter((other) => other !== subject);
    if (this.chosen === subject) this.choose(this.all[0]);
  }

  #tile(subject) {
    const tile = document.createElement("label");
    tile.className = subject.url ? "tile" : "tile nobody";
    tile.title = subject.name;
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "subject" });
    radio.setAttribute("aria-label", subject.name);
    radio.addEventListener("change", () => this.choose(subject));
    tile.append(subject.url ? Object.assign(new Image(), { src: subject.url, alt: "" }) : subject.own ? "?" : "Nobody", radio);
    if (subject.own) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "×" });
      button.title = "Delete it from the service";
      button.setAttribute("aria-label", `Delete ${subject.name}`);
      button.addEventListener("click", () => this.#remove(subject).catch((refusal) => this.says(refusal)));
      tile.append(button);
    }
    subject.tile = tile;
    this.tiles.append(tile);
  }
}
