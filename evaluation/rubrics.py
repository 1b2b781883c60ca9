"""What a judge is asked: two questions on the integer scale 0..4 of DreamBench++ (Peng et al. 2024), in our own words.

Concept preservation looks at reference and answer and never sees the prompt; prompt following looks at prompt and
answer and never sees the reference. A rubric is pinned by its hash: another wording is another protocol.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

Question = Literal["preservation", "following"]
LOWEST, HIGHEST = 0, 4


@dataclass(frozen=True)
class Rubric:
    """One question and its scale."""

    question: Question
    text: str

    @property
    def digest(self) -> str:
        """16 hex characters of the question's words."""
        return hashlib.sha256(f"{self.question}\n{self.text}".encode()).hexdigest()[:16]


_ANSWER = """Think for yourself first, then end with one line and nothing after it:
Score: N
where N is a whole number from 0 to 4."""

PRESERVATION = Rubric(
    "preservation",
    f"""You see two pictures, a reference and a generated one. How much is the main subject of the generated picture the
very subject of the reference? Pose, surroundings, light and drawing style may differ freely and cost nothing. Compare
outline and proportions, colours and where they lie, surface and markings, and, where there is a face, the face.

0: nothing in common, or the subject is missing
1: the same kind of thing at most
2: clearly related, with plain differences
3: the same at first sight, with small differences
4: no difference that could not come from pose, light or style

{_ANSWER}""",
)

STYLE = Rubric(
    "preservation",
    f"""You see two pictures, a reference and a generated one. How well is the generated picture made in the style of
the reference? What is shown may differ freely and costs nothing. Compare palette, line and brush, texture, light
and mood.

0: no likeness of style
1: a single trait at most
2: recognisable, with plain differences
3: close, with small differences
4: as if made by the same hand

{_ANSWER}""",
)

FOLLOWING = Rubric(
    "following",
    f"""You see a generated picture and the text it was made for. How much of what the text says does the picture show?
Count the things it names, their properties, what they do, how they relate, the place, and the style if one is
named. Whether the picture is beautiful costs nothing.

0: none of it
1: little of it
2: about half of it
3: nearly all of it
4: all of it

{_ANSWER}""",
)
