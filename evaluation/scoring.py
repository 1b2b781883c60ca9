"""Answers to numbers: every metric that the given eyes allow, each a column with its protocol."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from evaluation import metrics
from evaluation.answers import Answer, Cell
from evaluation.benchmarks import Benchmark, BenchmarkError, Photo, without_subject
from evaluation.cache import VectorCache
from evaluation.eyes import Eye
from evaluation.faces import FaceReader, Faces, score_faces
from evaluation.metrics import References
from evaluation.protocol import Protocol, only_protocol
from flexip.images import Mask, Rgb
from flexip.pocket.oracle import ATTRIBUTES


@dataclass(frozen=True)
class Column:
    """One metric of all answers; more is better unless `rising` says otherwise."""

    protocol: Protocol
    values: dict[Cell, float]  # raw; NaN where it means nothing
    role: str = ""  # "identity", "text", "quality" or "": which side of the trade it measures
    rising: bool = True

    @property
    def name(self) -> str:
        return self.protocol.column


@dataclass(frozen=True)
class Masker:
    """Finds the subject in a picture; None where nothing stands out."""

    name: str  # with all that its masks depend on
    mask: Callable[[Rgb], Mask | None]


@dataclass(frozen=True)
class Judges:
    """Everything that looks at pictures."""

    clip: Eye
    dino: Eye
    others: tuple[Eye, ...] = ()  # of families that condition no method
    iqa: Eye | None = None
    aesthetics: tuple[Eye, ...] = ()
    faces: FaceReader | None = None
    oracles: tuple[Eye, ...] = ()  # readers of what a prompt states, see `oracle_eye`
    masker: Masker | None = None


@dataclass(frozen=True)
class Scoring:
    """One benchmark, its answers, and who judges them."""

    benchmark: Benchmark
    answers: Sequence[Answer]
    judges: Judges
    cache: VectorCache

    def columns(self) -> list[Column]:
        """All of them. Raises BenchmarkError for an answer that is no picture; pick those out before."""
        found = [self._text(), *self._similarities(), *self._masked(), *self._qualities(), *self._faces()]
        found += [*self._truths(), *self._spread()]
        return [column for column in found if np.isfinite(list(column.values.values())).any()]

    @cached_property
    def _prompts(self) -> dict[tuple[str, int], str]:
        return {(case.unit, case.number): case.prompt for case in self.benchmark.cases}

    def _text(self) -> Column:
        clip = self.judges.clip
        prompts = self._told([self._prompts[a.cell.unit, a.cell.number] for a in self.answers])
        values = metrics.cosine(self._seen(clip), prompts)
        return self._column(Protocol("CLIP-T", clip.name, clip.weights, clip.resize), values, "text")

    def _told(self, texts: Sequence[str]) -> Float[np.ndarray, "texts width"]:
        read = self.judges.clip.read
        assert read is not None
        return self.cache.vectors(f"{self.judges.clip.maker} text", texts, lambda rows: read([texts[i] for i in rows]))

    def _similarities(self) -> Iterator[Column]:
        named = [
            ("CLIP-I", self.judges.clip),
            ("DINO-I", self.judges.dino),
            *(("SIM-I", e) for e in self.judges.others),
        ]
        for metric, eye in named:
            images = self._seen(eye)
            policies: tuple[References, ...] = ("all", "unseen")
            for policy in policies:
                name = metric if policy == "all" else f"{metric} unseen"
                protocol = Protocol(name, eye.name, eye.weights, eye.resize, policy)
                yield self._column(protocol, self._similarity(eye, images, policy), "identity")

    def _similarity(
        self, eye: Eye, images: Float[np.ndarray, "answers width"], policy: References
    ) -> Float[np.ndarray, " answers"]:
        """Of an answer with several subjects, the mean over them."""
        found = np.full((len(self.answers), len(self.benchmark.subjects)), np.nan)
        for column, subject in enumerate(self.benchmark.subjects):
            mine = [i for i, answer in enumerate(self.answers) if subject.name in answer.cell.unit.split("+")]
            if mine:
                photos = self._vectors(eye, subject.photos)
                found[mine, column] = metrics.reference_similarity(images[mine], photos, subject.shown, policy)
        return _mean(found)

    def _masked(self) -> Iterator[Column]:
        """The subject alone, cut out on both sides; where nothing is found, nothing was kept."""
        masker = self.judges.masker
        if masker is None:
            return
        for metric, eye in (("CLIP-I masked", self.judges.clip), ("DINO-I masked", self.judges.dino)):
            see = _altered(eye, masker, metrics.on_white)
            alone = Eye(f"{eye.name}, masked", f"{eye.weights} {masker.name}", eye.resize, see)
            protocol = Protocol(metric, eye.name, eye.weights, eye.resize, "all", masker.name)
            yield self._column(protocol, self._similarity(alone, self._seen(alone), "all"), "identity")
        yield from self._background(masker)
        yield from self._patches(masker)

    def _background(self, masker: Masker) -> Iterator[Column]:
        """The prompt without its subject against the picture without it: NaN where the prompt says nothing else."""
        clip, words = self.judges.clip, {subject.name: subject.word for subject in self.benchmark.subjects}
        cases = self.benchmark.cases
        said = {(c.unit, c.number): without_subject(c.prompt, [words[name] for name in c.subjects]) for c in cases}
        texts = [said[answer.cell.unit, answer.cell.number] for answer in self.answers]
        told = [i for i, text in enumerate(texts) if text]
        if not told:
            return
        see = _altered(clip, masker, metrics.background)
        behind = Eye(f"{clip.name}, background", f"{clip.weights} {masker.name}", clip.resize, see)
        values, prompts = np.full(len(texts), np.nan), self._told([texts[i] for i in told])
        values[told] = metrics.cosine(self._seen(behind)[told], prompts)
        protocol = Protocol("CLIP-T background", clip.name, clip.weights, clip.resize, detail=masker.name)
        yield self._column(protocol, values, "text")

    def _patches(self, masker: Masker) -> Iterator[Column]:
        """MaSC; of an answer with several subjects, the mean over them. Kept as one number for an answer's file."""
        eye = self.judges.dino
        if eye.patches is None:
            return
        found = np.full((len(self.answers), len(self.benchmark.subjects)), np.nan)
        for column, subject in enumerate(self.benchmark.subjects):
            mine = [i for i, answer in enumerate(self.answers) if subject.name in answer.cell.unit.split("+")]
            if mine:
                make = _patch_scores(eye, masker, [self.answers[i] for i in mine], subject.photos)
                shown = " ".join(photo.digest[:16] for photo in subject.photos)
                digests = [self.answers[i].digest for i in mine]
                found[mine, column] = self.cache.vectors(f"MaSC {eye.maker} {masker.name} {shown}", digests, make)[:, 0]
        protocol = Protocol("MaSC", eye.name, eye.weights, "squeezed to a square", "all", masker.name)
        yield self._column(protocol, _mean(found), "identity")

    def _qualities(self) -> Iterator[Column]:
        named = [("CLIP-IQA", self.judges.iqa), *(("Aesthetic", eye) for eye in self.judges.aesthetics)]
        for metric, eye in named:
            if eye is not None:
                yield self._column(
                    Protocol(metric, eye.name, eye.weights, eye.resize), self._seen(eye)[:, 0], "quality"
                )

    def _faces(self) -> Iterator[Column]:
        reader = self.judges.faces
        if reader is None:
            return
        wanted = {}
        shown = self._faces_in(reader, [subject.reference for subject in self.benchmark.subjects])
        for subject, seen in zip(self.benchmark.subjects, shown, strict=True):
            if len(seen.embeddings):
                wanted[subject.name] = seen.embeddings[0]
        truth = {(case.unit, case.number): dict(case.truth) for case in self.benchmark.cases}
        scores = np.full((len(self.answers), 4), np.nan)
        for i, (answer, found) in enumerate(zip(self.answers, self._faces_in(reader, self.answers), strict=True)):
            people = answer.cell.unit.split("+")
            asked = truth[answer.cell.unit, answer.cell.number] if reader.tells_motion else {}
            if not all(name in wanted for name in people):
                continue
            state = [[asked.get(name)] * len(people) for name in ("expression", "pose")]
            score = score_faces(found, np.stack([wanted[name] for name in people]), *state)
            scores[i] = (score.similarity, score.detected, score.expression, score.pose)
        roles = {"FaceSim": "identity", "Faces found": "", "Expression": "text", "Pose": "text"}
        for column, (name, role) in enumerate(roles.items()):
            protocol = Protocol(name, reader.name, reader.weights, references="shown" if column == 0 else "")
            yield self._column(protocol, scores[:, column], role)

    def _faces_in(self, reader: FaceReader, pictures: Sequence[Answer | Photo]) -> list[Faces]:
        def make(rows: Sequence[int]) -> list[Float[np.ndarray, " numbers"]]:
            return [faces.packed for faces in reader.read([pictures[i].image for i in rows])]

        kept = self.cache.arrays(f"{reader.name} {reader.weights}", [picture.digest for picture in pictures], make)
        return [Faces.unpacked(numbers) for numbers in kept]

    def _truths(self) -> Iterator[Column]:
        """Share of what the prompt states that the oracles read, where a prompt says what can be read off."""
        truth = {(case.unit, case.number): dict(case.truth) for case in self.benchmark.cases}
        if not self.judges.oracles or not any(truth.values()):
            return
        right, names = [], list(ATTRIBUTES)
        for oracle in self.judges.oracles:
            values, rows = self._seen(oracle), []
            for i, answer in enumerate(self.answers):
                stated = truth[answer.cell.unit, answer.cell.number].items()
                rows.append(np.mean([values[i, names.index(a)] == ATTRIBUTES[a].index(word) for a, word in stated]))
            right.append(rows)
        weights = "+".join(oracle.weights for oracle in self.judges.oracles)
        protocol = Protocol("Edit obeyed", "pocket oracles", weights, self.judges.oracles[0].resize)
        yield self._column(protocol, np.mean(right, axis=0), "text")

    def _spread(self) -> Iterator[Column]:
        """How much seeds differ, and how often an answer is nearer to somebody else."""
        dino = self.judges.dino
        images, groups = self._seen(dino), dict[tuple, list[int]]()
        for i, answer in enumerate(self.answers):
            c = answer.cell
            groups.setdefault((c.method, c.unit, c.number, c.gamma), []).append(i)
        spread = np.full(len(images), np.nan)
        for rows in groups.values():
            spread[rows] = metrics.seed_diversity(images[rows])
        yield self._column(Protocol("Seed diversity", dino.name, dino.weights, dino.resize), spread)
        alone = [i for i, answer in enumerate(self.answers) if "+" not in answer.cell.unit]
        if len(self.benchmark.subjects) > 1 and alone:
            names = [subject.name for subject in self.benchmark.subjects]
            shown = self._vectors(dino, [subject.reference for subject in self.benchmark.subjects])
            own = np.array([names.index(self.answers[i].cell.unit) for i in alone])
            values = np.full(len(images), np.nan)
            values[alone] = metrics.leakage(images[alone], shown, own)
            protocol = Protocol("Leakage", dino.name, dino.weights, dino.resize, "shown", f"{len(names)} subjects")
            yield self._column(protocol, values, rising=False)

    def _seen(self, eye: Eye) -> Float[np.ndarray, "answers width"]:
        return self._vectors(eye, self.answers)

    def _vectors(self, eye: Eye, pictures: Sequence[Answer | Photo]) -> Float[np.ndarray, "pictures width"]:
        digests = [picture.digest for picture in pictures]
        return self.cache.vectors(eye.maker, digests, lambda rows: eye.see([pictures[i].image for i in rows]))

    def _column(
        self, protocol: Protocol, values: Float[np.ndarray, " answers"], role: str = "", rising: bool = True
    ) -> Column:
        return Column(protocol, dict(zip((a.cell for a in self.answers), values.tolist(), strict=True)), role, rising)


def readable(answers: Sequence[Answer]) -> tuple[list[Answer], list[str]]:
    """The answers that are pictures, and a line for each that is not: it costs its own row."""
    good, bad = [], []
    for answer in answers:
        try:
            _ = answer.image
            good.append(answer)
        except BenchmarkError as error:
            bad.append(str(error))
    return good, bad


def joined(parts: Sequence[Sequence[Column]]) -> list[Column]:
    """The columns of several scorings as one table.

    Raises:
        evaluation.protocol.ProtocolError: a column of one name was measured in different ways.
    """
    by_name = dict[str, list[Column]]()
    for column in (column for part in parts for column in part):
        by_name.setdefault(column.name, []).append(column)
    table = []
    for columns in by_name.values():
        protocol = only_protocol(column.protocol for column in columns)
        values = {cell: value for column in columns for cell, value in column.values.items()}
        table.append(Column(protocol, values, columns[0].role, columns[0].rising))
    return table


def controls(benchmark: Benchmark, seeds: Sequence[int]) -> list[Answer]:
    """Answers that nobody drew: "copy" gives the shown reference back, "wrong subject" that of the next subject."""
    subjects, found = benchmark.subjects, list[Answer]()
    place = {subject.name: i for i, subject in enumerate(subjects)}
    for case in benchmark.cases:
        first = place[case.subjects[0]]
        for seed in seeds:
            found.append(Answer(Cell("copy", case.unit, case.number, seed), subjects[first].reference))
            if len(subjects) > 1:
                other = subjects[(first + 1) % len(subjects)].reference
                found.append(Answer(Cell("wrong subject", case.unit, case.number, seed), other))
    return found


def _altered(
    eye: Eye, masker: Masker, alter: Callable[[Rgb, Mask], Rgb]
) -> Callable[[Sequence[Rgb]], Float[np.ndarray, "images width"]]:
    """Sees pictures that were altered by their masks; one in which no subject is found, as it is."""

    def see(images: Sequence[Rgb]) -> Float[np.ndarray, "images width"]:
        masks = [masker.mask(image) for image in images]
        return eye.see([i if m is None else alter(i, m) for i, m in zip(images, masks, strict=True)])

    return see


def _patch_scores(
    eye: Eye, masker: Masker, answers: Sequence[Answer], photos: Sequence[Photo]
) -> Callable[[Sequence[int]], Float[np.ndarray, "answers 1"]]:
    """Mean over the photographs of MaSC with each; a picture in which no subject is found counts whole."""

    def subjects(images: Sequence[Rgb]) -> list[Float[np.ndarray, "patches width"]]:
        assert eye.patches is not None
        tokens, masks = eye.patches(images), [masker.mask(image) for image in images]
        side = round(tokens.shape[1] ** 0.5)
        return [t if m is None else t[metrics.patch_mask(m, side)] for t, m in zip(tokens, masks, strict=True)]

    def make(rows: Sequence[int]) -> Float[np.ndarray, "answers 1"]:
        shown = subjects([photo.image for photo in photos])
        drawn = subjects([answers[i].image for i in rows])
        return np.array([[np.mean([metrics.patch_similarity(answer, photo) for photo in shown])] for answer in drawn])

    return make


def _mean(values: Float[np.ndarray, "answers subjects"]) -> Float[np.ndarray, " answers"]:
    known = np.isfinite(values)
    count = known.sum(axis=1)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
