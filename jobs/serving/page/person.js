// A subject that is a person: its face is drawn, and where the model can, with another expression and pose.

const $ = (id) => document.getElementById(id);
const MOTIONS = { expression: "expressions", pose: "poses" };
const KEPT = "as in the picture";

/** What is said of a person, in a receipt or a request; empty for a subject that is none. */
export function inWords({ person, expression, pose }) {
  const looks = pose && (pose === "front" ? "looking ahead" : `looking ${pose}`);
  return person ? [expression, looks].filter(Boolean).join(", ") || KEPT : "";
}

export class Person {
  /** `changed` is called when something else is said. */
  constructor(changed) {
    for (const id of ["is-person", ...Object.keys(MOTIONS)]) $(id).addEventListener("change", () => {
      this.#fields();
      changed();
    });
  }

  /** Whom the model draws: null for nobody, else the expressions and poses that it can give them. */
  set drawn(people) {
    $("person").hidden = people === null;
    for (const [id, names] of Object.entries(MOTIONS)) {
      const chosen = $(id).value;
      $(id).replaceChildren(new Option(KEPT, ""), ...(people?.[names] ?? []).map((name) => new Option(name)));
      $(id).value = people?.[names].includes(chosen) ? chosen : "";
    }
    this.#fields();
  }

  /** As a request says it of the active subject. */
  get value() {
    return { person: $("is-person").checked, expression: $("expression").value, pose: $("pose").value };
  }

  set value({ person, expression, pose }) {
    $("is-person").checked = person;
    $("expression").value = expression;
    $("pose").value = pose;
    this.#fields();
  }

  #fields() {
    $("motion").hidden = !$("is-person").checked || $("expression").options.length === 1;
  }
}
