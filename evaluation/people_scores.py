"""From what was read of people in pictures to tables: who was kept, who obeyed, and whose face is on whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int

from evaluation.people import Motions, PeopleReadings, scene_of
from evaluation.results import interval, table_row, table_rule, verdict
from evaluation.statistics import Interval, crossed_bootstrap
from flexip.pocket.face import EXPRESSIONS, POSES
from flexip.pocket.identity import Identity
from flexip.pocket.oracle import IDENTITY

HOPED_MOTION, HOPED_KEPT, HOPED_LEAKAGE = 0.8, 0.9, 1 / 3
COLUMNS = {  # score -> head of its column
    "similarity": "face similarity",
    "kept": "identity kept",
    "expression": "expression",
    "new expression": "expression, new",
    "pose": "pose",
    "new pose": "pose, new",
    "leaked": "leakage",
    "borrowed": "borrowed",
    "placed": "in place",
    "text": "CLIP-T",
    "scene": "scene",
}
OF_SEVERAL = ("leaked", "borrowed", "placed")

Scores = Mapping[str, Float[np.ndarray, " groups"]]  # of each group its mean; NaN where there is nothing to score


@dataclass(frozen=True)
class Case:
    """What the pictures of so many people were asked to show; all methods have the same."""

    who: Sequence[Sequence[Identity]]  # the people of each group
    source: Motions
    target: Motions

    @property
    def people(self) -> int:
        """In a picture."""
        return self.target.shape[2]

    @property
    def attributes(self) -> dict[str, Int[np.ndarray, "groups 1 people"]]:
        """Index of everybody's value of each attribute of identity."""
        return {
            name: np.array([[values.index(getattr(one, name)) for one in group] for group in self.who])[:, None]
            for name, values in IDENTITY.items()
        }


@dataclass(frozen=True)
class Standing:
    """One method, or a control, in the table of so many people."""

    name: str
    title: str
    scores: Scores


def score_people(readings: PeopleReadings, case: Case) -> Scores:
    """Means of each group, in which everybody is read where the assignment puts them, and oracles count alike.

    similarity      cosine with the face in the source; 0 where an oracle sees no creature
    kept            share of the attributes of identity that are read right; none where no creature is seen
    expression      share that shows what was asked for; "new": of the cells whose source shows another. So for pose
    leaked          share of faces that are nearer to somebody else's of the picture than to their own
    borrowed        share of the attributes in which others differ that are read as one of these others'
    placed          share of people who are read where they were asked to be
    text, scene     CLIP's cosine with the sentence that says the scene; share of pictures with the right scene
    """
    where = assigned_places(readings.faces)
    values = {name: _at(array, where) for name, array in readings.values.items()}
    seen = values.pop("subject") == 1
    faces = np.take_along_axis(readings.faces, where[..., None], axis=2)
    right = {name: seen & (values[name] == case.target[..., n]) for n, name in enumerate(("expression", "pose"))}
    scenes = np.array([[scene_of(g, c) for c in range(where.shape[1])] for g in range(len(where))])
    own = np.arange(case.people)
    each = {
        "similarity": seen.mean(axis=0) * np.diagonal(faces, axis1=2, axis2=3),
        "kept": np.mean([seen & (values[name] == true) for name, true in case.attributes.items()], axis=(0, 1)),
        **{name: array.mean(axis=0) for name, array in right.items()},
        **{
            f"new {name}": np.where(case.source[..., n] == case.target[..., n], np.nan, array.mean(axis=0))
            for n, (name, array) in enumerate(right.items())
        },
        "leaked": _leaked(faces, seen.any(axis=0)),
        "borrowed": _borrowed(values, seen, case),
        "placed": (where == own).astype(float) if case.people > 1 else np.full(where.shape, np.nan),
        "text": readings.text[..., None],
        "scene": (readings.scenes == scenes[..., None]).mean(axis=0),
    }
    return {name: _means(array) for name, array in each.items()}


def assigned_places(faces: Float[np.ndarray, "groups cells places people"]) -> Int[np.ndarray, "groups cells people"]:
    """Where everybody is read: the assignment of places to people that their faces' similarities add up highest in.

    The same for all methods, since not every one of them is told who is to stand where.
    """
    orders = np.array([*permutations(range(faces.shape[-1]))])
    sums = np.stack([np.diagonal(faces[..., order, :], axis1=2, axis2=3).sum(axis=-1) for order in orders])
    return orders[sums.argmax(axis=0)]


def copying(case: Case) -> Scores:
    """What a perfect copy of everybody's source would score by the cells alone."""
    same = case.source == case.target
    found = {name: _means(same[..., n].astype(float)) for n, name in enumerate(("expression", "pose"))}
    return found | {f"new {name}": np.zeros(len(same)) for name in found}


def guessing(case: Case) -> Scores:
    """What guessing evenly scores."""
    groups, chances = len(case.who), {"expression": 1 / len(EXPRESSIONS), "pose": 1 / len(POSES)}
    chances |= {f"new {name}": chance for name, chance in chances.items()}
    chances["leaked"] = (case.people - 1) / case.people
    return {name: np.full(groups, chance) for name, chance in chances.items()}


def people_table(standings: Sequence[Standing], people: int) -> list[str]:
    """A line for each; intervals over groups."""
    columns = {name: head for name, head in COLUMNS.items() if people > 1 or name not in OF_SEVERAL}
    head = ["", *columns.values()]
    lines = [table_row([one.title, *(_cell(one.scores.get(name)) for name in columns)]) for one in standings]
    return [table_row(head), table_rule(head), *lines]


def people_verdicts(single: Mapping[str, Standing], double: Mapping[str, Standing] | None) -> list[str]:
    """What was hoped for before anything was measured, and whether it came out.

    Args:
        single, double: standings by name in the tables of one person and of two; None: there is no such table.
    """
    ours, still = (single[name].scores for name in ("dynamicid", "anchored"))
    ratios = {name: _ratio(ours[name], still[name]) for name in ("similarity", "kept")}
    lines = [
        verdict(
            f"one person: {name} right in {HOPED_MOTION} of the pictures at least",
            bool(np.nanmean(ours[name]) >= HOPED_MOTION),
            interval(_mean(ours[name])),
        )
        for name in ("expression", "pose")
    ]
    lines += [
        verdict(
            f"one person: {COLUMNS[name]} at least {HOPED_KEPT} of what it is without IMR",
            bool(ratio.mean >= HOPED_KEPT),
            interval(ratio),
        )
        for name, ratio in ratios.items()
    ]
    if double:
        leaks = _ratio(double["dynamicid"].scores["leaked"], double["plain"].scores["leaked"])
        found = interval(leaks)
        hoped = "two people: leakage at most a third of what plain concatenation gives"
        lines.append(verdict(hoped, bool(leaks.mean <= HOPED_LEAKAGE), found))
    return lines


def _at(
    values: Int[np.ndarray, "oracles groups cells places"], where: Int[np.ndarray, "groups cells people"]
) -> np.ndarray:
    return np.take_along_axis(values, where[None], axis=3)


def _leaked(
    faces: Float[np.ndarray, "groups cells people others"], seen: Bool[np.ndarray, "groups cells people"]
) -> np.ndarray:
    """1 where somebody else's face is nearer than one's own; NaN where nobody is seen, or nobody else is asked for."""
    people = faces.shape[-1]
    if people < 2:
        return np.full(seen.shape, np.nan)
    others = np.where(np.eye(people, dtype=bool), -np.inf, faces).max(axis=-1)
    return np.where(seen, others > np.diagonal(faces, axis1=2, axis2=3), np.nan)


def _borrowed(
    values: Mapping[str, np.ndarray], seen: Bool[np.ndarray, "oracles groups cells people"], case: Case
) -> np.ndarray:
    """Of the attributes that somebody else has another value of, how many are read as such a value."""
    taken, asked = np.zeros(seen.shape), np.zeros(seen.shape)
    for name, true in case.attributes.items():
        own, others = true[..., :, None], true[..., None, :]
        differ = own != others
        asked += seen & differ.any(axis=-1)
        taken += seen & (differ & (values[name][..., None] == others)).any(axis=-1)
    with np.errstate(invalid="ignore"):
        return _mean_of_known(np.where(asked > 0, taken / asked, np.nan))


def _mean_of_known(array: Float[np.ndarray, "oracles ..."]) -> Float[np.ndarray, "..."]:
    known = np.isfinite(array)
    return np.where(known.any(axis=0), np.nansum(array, axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


def _means(array: Float[np.ndarray, "groups cells _"]) -> Float[np.ndarray, " groups"]:
    return _mean_of_known(array.reshape(len(array), -1).T)


def _mean(values: Float[np.ndarray, " groups"]) -> Interval:
    return crossed_bootstrap(lambda found: float(np.nanmean(found)), values[None])


def _ratio(ours: Float[np.ndarray, " groups"], theirs: Float[np.ndarray, " groups"]) -> Interval:
    """Of two means over the same groups, which stay together when they are resampled."""

    def ratio(values: Float[np.ndarray, "1 groups 2"]) -> float:
        first, second = np.nanmean(values, axis=(0, 1))
        return float(first / second) if second > 0 else float("nan")

    return crossed_bootstrap(ratio, np.stack([ours, theirs], axis=1)[None])


def _cell(values: Float[np.ndarray, " groups"] | None) -> str:
    if values is None or not np.isfinite(values).any():
        return "–"
    return f"{values[0]:.3f}" if np.ptp(values) == 0 else interval(_mean(values))
