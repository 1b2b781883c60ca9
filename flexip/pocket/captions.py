"""Sentences about a picture, of three lengths, with and without saying who the creatures are."""

import re
from typing import TYPE_CHECKING, Literal

import numpy as np

from flexip.pocket.face import EXPRESSIONS
from flexip.pocket.identity import COLOURS, EYES, SHAPES, TOPS, Identity
from flexip.pocket.props import ACCESSORIES, ACTIONS

if TYPE_CHECKING:
    from flexip.pocket.world import Picture, Placement

Length = Literal["short", "medium", "long"]
LENGTHS: tuple[Length, ...] = ("short", "medium", "long")
_PLACES = {
    "beach": "on a beach",
    "forest": "in a forest",
    "desert": "in a desert",
    "snow": "in the snow",
    "city": "in a city",
    "meadow": "in a meadow",
    "sea": "under the sea",
    "moon": "on the moon",
    "mountains": "in the mountains",
    "room": "in a room",
}
_POSES = {
    "fully left": "looking fully left",
    "left": "looking left",
    "front": "looking ahead",
    "right": "looking right",
    "fully right": "looking fully right",
}
_STYLES = {"flat": "a flat drawing of", "sketch": "a sketch of", "night": "a night picture of", "pixel": "pixel art of"}
_PATTERN_NAMES = {"two-tone": "a belly", "striped": "stripes", "spotted": "spots", "checkered": "checks"}
_KINDS = (  # phrases that can stand for one another in a sentence
    tuple(COLOURS),
    tuple(f"{shape} creature" for shape in SHAPES),
    tuple(top for top in TOPS if top not in ("no ears", "a crest")),
    ("stripes", "spots", "checks"),
    EYES,
    EXPRESSIONS,
    ACCESSORIES[1:],
    ACTIONS[1:],
    tuple(_POSES.values()),
    tuple(_STYLES.values()),
    tuple(_PLACES.values()),
)
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def caption(picture: "Picture", length: Length = "medium", describe_identity: bool = True) -> str:
    """One sentence: short (who), medium (expression and scene too), long (also pose and style).

    With `describe_identity` false a creature is only "a creature", as in an editing prompt. From three creatures on
    the sentence counts them, to stay within 77 tokens.
    """
    words = _crowd(picture, length) if len(picture.creatures) > 2 else _each(picture, length, describe_identity)
    if length != "short":
        comma = "," if length == "long" or describe_identity else ""
        words += f"{comma} {_PLACES[picture.scene]}"
    if length == "long" or (length == "medium" and picture.style != "flat"):
        words = f"{_STYLES[picture.style]} {words}"
    return words


def roll_call(picture: "Picture", motions: bool = False) -> str:
    """A prompt for several creatures that tells them apart by their number alone, however many they are.

    As in "a flat drawing of a creature and a creature, in the snow", or with `motions` "... of a happy creature,
    looking left and a sad creature, looking ahead, in the snow".
    """
    each = [f"{_one(placed, 'medium', 'medium', False)}, {_POSES[placed.pose]}" for placed in picture.creatures]
    words = " and ".join(each if motions else ["a creature"] * len(each))
    return f"{_STYLES[picture.style]} {words}, {_PLACES[picture.scene]}"


def altered(sentence: str, rng: np.random.Generator) -> str:
    """The sentence with one thing that it says changed to another of the same kind; as it is when it says none."""
    found = [
        (match, kind)
        for kind in _KINDS
        for phrase in kind
        for match in re.finditer(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", sentence)
    ]
    if not found:
        return sentence
    match, kind = found[int(rng.integers(len(found)))]
    others = [phrase for phrase in kind if phrase != match.group()]
    changed = sentence[: match.start()] + str(rng.choice(others)) + sentence[match.end() :]
    return re.sub(r"\ban?(?= ([a-z]))", lambda article: "an" if changed[article.end() + 1] in "aeiou" else "a", changed)


def describe(who: Identity, length: Length = "medium") -> str:
    """Names a creature, as in "a red round creature with horns"; longer forms add pattern, eyes and mark."""
    parts = []
    if who.top != "no ears":
        parts.append(who.top if length == "short" else _coloured(who.second, who.top))
    if length != "short" and who.pattern != "plain":
        parts.append(_coloured(who.second, _PATTERN_NAMES[who.pattern]))
    if length == "long":
        parts += [who.eyes] + ([who.mark] if who.mark != "no mark" else [])
    article = "an" if who.colour[0] in "aeiou" else "a"
    base = f"{article} {who.colour} {who.shape} creature"
    return base if not parts else f"{base} with {_join(parts)}"


def vocabulary() -> set[str]:
    """Every word (letters only) that a caption can contain."""
    from flexip.pocket import identity as names

    phrases = [
        *names.SHAPES,
        *names.COLOURS,
        *names.PATTERNS,
        *names.TOPS,
        *names.EYES,
        *names.MARKS,
        *EXPRESSIONS,
        *ACCESSORIES,
        *ACTIONS,
        *_COUNTS,
    ]
    phrases += [
        *_PLACES.values(),
        *_POSES.values(),
        *_STYLES.values(),
        "a an and with wearing creature creatures belly stripes spots checks",
    ]
    return {word for phrase in phrases for word in phrase.replace("-", " ").split()}


def _each(picture: "Picture", length: Length, describe_identity: bool) -> str:
    detail: Length = length if len(picture.creatures) == 1 else "short"
    return " and ".join(_one(placed, length, detail, describe_identity) for placed in picture.creatures)


def _one(placed: "Placement", length: Length, detail: Length, describe_identity: bool) -> str:
    if not describe_identity:
        article = "an" if placed.expression[0] in "aeiou" else "a"
        words = f"{article} {placed.expression} creature{_deeds(placed, length)}"
        return f"{words}, {_POSES[placed.pose]}" if length == "long" else words
    words = describe(placed.identity, detail)
    if length == "short":
        return words
    deeds = _deeds(placed, length)
    words = f"{words}, {placed.expression}{',' if deeds else ''}{deeds}"
    return f"{words}, {_POSES[placed.pose]}" if length == "long" else words


def _deeds(placed: "Placement", length: Length) -> str:
    """What a creature wears and does, as in " wearing a hat and waving"; empty in short sentences."""
    worn = [] if placed.accessory == "nothing" else [f"wearing {placed.accessory}"]
    done = [] if placed.action == "standing" else [placed.action]
    return "" if length == "short" or not worn + done else f" {_join(worn + done)}"


def _crowd(picture: "Picture", length: Length) -> str:
    count = len(picture.creatures)
    moods = {placed.expression for placed in picture.creatures}
    mood = f"{moods.pop()} " if len(moods) == 1 and length != "short" else ""
    return f"{_COUNTS[count]} {mood}creatures"


def _coloured(colour: str, thing: str) -> str:
    article = "an " if colour[0] in "aeiou" else "a "
    return f"{article}{colour} {thing.removeprefix('a ')}" if thing.startswith("a ") else f"{colour} {thing}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
