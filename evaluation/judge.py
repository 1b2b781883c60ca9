"""A multimodal model as judge, behind any OpenAI-style endpoint, with every exchange in a log that can be replayed.

Each item is asked several times. Where two pictures are compared their order is swapped in every other repeat, and the
difference between the two orders is reported: a judge that prefers a place is no judge. Pictures are padded, never
stretched.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.rubrics import HIGHEST, LOWEST, Rubric
from flexip.images import Rgb, encode_png, pad_square, resize

SIDE = 512  # [px] of what the judge sees
Complete = Callable[[Mapping[str, Any]], str]  # body of a chat completion -> the text of its answer
_SCORE = re.compile(
    r"\bscore[*_\s]*(?:\([^)\n]*\)[*_\s]*)?(?:[:=]|\bis\b)[*_\s]*(-?\d+(?:[.,]\d+)?)(?:\s*/\s*(\d+))?", re.IGNORECASE
)


class JudgeError(ValueError):
    """A judge that cannot be asked, or a log that does not hold what is asked."""


@dataclass(frozen=True)
class Item:
    """One answer to judge."""

    name: str
    answer: Rgb
    reference: Rgb | None = None  # for preservation
    prompt: str = ""  # for following


@dataclass(frozen=True)
class Verdict:
    """One reading of one item."""

    item: str
    rubric: str  # hash
    model: str
    repeat: int
    swapped: bool
    score: (
        int | None
    )  # None where the answer holds no score: it stays in the log and is counted, not dropped in silence


@dataclass(frozen=True)
class Judgement:
    """All repeats of one item."""

    item: str
    score: float  # mean / 4, 0..1; NaN where no repeat could be read
    spread: float  # standard deviation of the repeats' scores, 0..4
    order: float  # mean of swapped minus mean of unswapped, 0..4; NaN without both
    unread: int


class Log:
    """JSON lines, one for each exchange, keyed by the hash of the request; written as they come."""

    def __init__(self, path: Path):
        """Reads what is there. Raises JudgeError for a line that is no exchange."""
        self._path, self._known = path, dict[str, str]()
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines, whole = text.splitlines(), ""
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self._known[row["request"]] = row["answer"]
                whole += f"{line}\n"
            except (ValueError, KeyError, TypeError) as error:
                if number < len(lines):  # the last line may have been cut off by a kill: it is asked again
                    raise JudgeError(f"{path}:{number}: no exchange; needs `request` and `answer`") from error
        self._mended = whole if whole != text else None  # what is left of a file whose end a kill cut off

    def answer(self, body: Mapping[str, Any], repeat: int, complete: Complete | None) -> str:
        """The logged answer, else the model's, which is logged; None as `complete` replays only.

        Raises:
            JudgeError: it is not in the log, and nobody may be asked.
        """
        key = hashlib.sha256(json.dumps([body, repeat], sort_keys=True).encode()).hexdigest()
        if key in self._known:
            return self._known[key]
        if complete is None:
            raise JudgeError(f"{self._path}: has no answer to request {key[:12]}; judge with an endpoint first")
        text = complete(body)
        self._append(json.dumps({"request": key, "model": body["model"], "answer": text}) + "\n")
        self._known[key] = text
        return text

    def _append(self, line: str) -> None:
        """After the last whole line: what a kill left of another one would spoil this one too."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._mended is not None:
            self._path.write_text(self._mended, encoding="utf-8")
            self._mended = None
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(line)


def judge(
    items: Sequence[Item],
    rubric: Rubric,
    model: str,
    log: Log,
    complete: Complete | None = None,
    repeats: int = 4,
    temperature: float = 0.0,
) -> list[Verdict]:
    """Asks about every item `repeats` times, or replays what the log holds."""
    verdicts = []
    for item in items:
        for repeat in range(repeats):
            swapped = rubric.question == "preservation" and repeat % 2 == 1
            text = log.answer(_body(item, rubric, model, swapped, temperature), repeat, complete)
            verdicts.append(Verdict(item.name, rubric.digest, model, repeat, swapped, read_score(text)))
    return verdicts


def judgements(verdicts: Sequence[Verdict]) -> list[Judgement]:
    """The repeats of each item as one.

    Raises:
        JudgeError: verdicts of several rubrics or models, whose scores do not compare.
    """
    kinds = sorted({(verdict.rubric, verdict.model) for verdict in verdicts})
    if len(kinds) > 1:
        raise JudgeError(f"verdicts: of {len(kinds)} rubrics and models, {kinds[:2]}; judge all items in one way")
    by_item = dict[str, list[Verdict]]()
    for verdict in verdicts:
        by_item.setdefault(verdict.item, []).append(verdict)
    found = []
    for name, own in by_item.items():
        scores = [verdict.score for verdict in own if verdict.score is not None]
        turned, straight = (
            [v.score for v in own if v.score is not None and v.swapped is side] for side in (True, False)
        )
        order = float(np.mean(turned) - np.mean(straight)) if turned and straight else float("nan")
        mean = float(np.mean(scores)) / HIGHEST if scores else float("nan")
        spread = float(np.std(scores)) if scores else float("nan")
        found.append(Judgement(name, mean, spread, order, len(own) - len(scores)))
    return found


def ratings(verdicts: Sequence[Verdict], items: Sequence[str]) -> np.ndarray:
    """Scores as (repeats, items), NaN where one could not be read: what `krippendorff_alpha` takes."""
    place = {name: i for i, name in enumerate(items)}
    table = np.full((1 + max(verdict.repeat for verdict in verdicts), len(items)), np.nan)
    for verdict in verdicts:
        if verdict.score is not None:
            table[verdict.repeat, place[verdict.item]] = verdict.score
    return table


def read_score(text: str) -> int | None:
    """The last `Score: N` of an answer, also as `Score (0-4): N` or `Score: N/4`; None where N is no score.

    A fraction, a negative number or one of another scale is no score; neither is a number that merely follows the word.
    """
    found = _SCORE.findall(text)
    if not found:
        return None
    number, scale = found[-1]
    whole = number.isdecimal() and scale in ("", str(HIGHEST))
    return int(number) if whole and LOWEST <= int(number) <= HIGHEST else None


def verdict_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """As JSON lines have them."""
    return [asdict(verdict) for verdict in verdicts]


def _body(item: Item, rubric: Rubric, model: str, swapped: bool, temperature: float) -> dict[str, Any]:
    """The request: the rubric, then the pictures, each named, in this or the other order."""
    answer = [_words("The generated picture:"), _picture(item.answer)]
    if rubric.question == "following":
        parts = [_words(f"The text: {item.prompt}"), *answer]
    elif item.reference is None:
        raise JudgeError(f"{item.name}: has no reference; preservation compares with one")
    else:
        reference = [_words("The reference:"), _picture(item.reference)]
        parts = [*answer, *reference] if swapped else [*reference, *answer]
    messages = [{"role": "user", "content": [_words(rubric.text), *parts]}]
    return {"model": model, "temperature": temperature, "messages": messages}


def _words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _picture(image: Rgb) -> dict[str, Any]:
    data = base64.b64encode(encode_png(resize(pad_square(image), (SIDE, SIDE)))).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
