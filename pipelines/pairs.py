"""Same-subject pairs of one clip, and the split of the whole dataset by identity cluster (FlexIP, Sec. 3.4).

Invariant: reference and target come from one picture, the reference augmented. Variant: two frames of one track at
least a time gap apart, or two pictures of a multi-view folder. High identity and not too equal pixels: a pair of
nearly equal frames teaches copying.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexip.images import Rgb, decode_image, decode_mask, encode_mask, encode_png, resize
from flexip.rows import DatasetName, PairRow, Split, SubjectRow
from pipelines.crops import augmented, pixel_similarity, target_square
from pipelines.records import Crop, StageCount, chance
from pipelines.settings import PairSettings, SplitSettings

COMPARED_SIDE = 64  # crops are compared pixel by pixel at this size [px]


@dataclass(frozen=True)
class Subject:
    """What pairs are made of: an accepted subject, its crop, and the direction of its DINO embedding."""

    row: SubjectRow
    crop: Rgb
    mask: np.ndarray
    embedding: np.ndarray  # float32 (Dd,), unit length

    @property
    def small(self) -> Rgb:
        """The crop at the size at which pixels are compared."""
        return resize(self.crop, (COMPARED_SIDE, COMPARED_SIDE))


class PairMaker:
    """Pairs of one clip. `frames` maps (source hash, frame index) to the picture; `duration` of the clip in seconds."""

    def __init__(
        self,
        frames: dict[tuple[str, int], Rgb],
        duration: float,
        settings: PairSettings,
        target_side: int,
        seed: int,
    ):
        self.frames = frames
        self.gap = max(settings.min_gap_s, settings.min_gap_fraction * duration)
        self.settings = settings
        self.target_side = target_side
        self.seed = seed

    def make(self, subjects: Sequence[Subject]) -> tuple[list[PairRow], StageCount]:
        """Pairs of every track, and how each candidate ended."""
        pairs, count = [], StageCount()
        by_track = sorted(subjects, key=lambda s: (s.row.track, s.row.timestamp, s.row.source, s.row.key))
        for _, group in itertools.groupby(by_track, key=lambda s: s.row.track):
            track = list(group)
            made = [*self._invariant(track), *self._variant(track, count)]
            count.add("accepted", "", len(made))
            pairs += made
        return pairs, count

    def _invariant(self, track: list[Subject]) -> list[PairRow]:
        chosen = sorted(track, key=lambda s: chance(self.seed, "invariant", s.row.key))
        rows = []
        for subject in chosen[: self.settings.invariant_per_track]:
            crop, mask = augmented(subject.crop, subject.mask, f"{self.seed}:{subject.row.key}")
            small = resize(crop, (COMPARED_SIDE, COMPARED_SIDE))
            likeness = pixel_similarity(small, subject.small)
            rows.append(self._pair("invariant", subject, subject, crop, mask, 1.0, likeness))
        return rows

    def _variant(self, track: list[Subject], count: StageCount) -> list[PairRow]:
        candidates = [
            (a, b)
            for a, b in itertools.combinations(track, 2)
            if a.row.kind == "multiview" or b.row.timestamp - a.row.timestamp >= self.gap
        ]
        return self._chosen(candidates, self.settings.identity_min, self.settings.variant_per_track, count)

    def across(self, track: list[Subject], other: list[Subject], count: StageCount) -> list[PairRow]:
        """Variant pairs of two tracks of one subject in different sources."""
        candidates = list(itertools.product(track, other))
        return self._chosen(candidates, self.settings.cross_identity_min, self.settings.cross_video, count)

    def _chosen(
        self, candidates: Sequence[tuple[Subject, Subject]], identity_min: float, most: int, count: StageCount
    ) -> list[PairRow]:
        """Of the candidates, in an order drawn by hash, the first that show one identity in other pixels."""
        rows = []
        for a, b in sorted(candidates, key=lambda ab: chance(self.seed, "variant", ab[0].row.key, ab[1].row.key)):
            identity = float(np.dot(a.embedding, b.embedding))
            likeness = pixel_similarity(a.small, b.small)
            if identity < identity_min:
                count.add("rejected", "identity_low")
            elif likeness > self.settings.pixels_max:
                count.add("rejected", "pixels_equal")
            elif likeness < self.settings.pixels_min:
                count.add("rejected", "pixels_apart")
            elif len(rows) >= most:
                count.add("rejected", "over_limit")
            else:
                forth = chance(self.seed, "direction", a.row.key, b.row.key) < 0.5
                first, second = (a, b) if forth else (b, a)
                rows.append(self._pair("variant", first, second, first.crop, first.mask, identity, likeness))
        return rows

    def _pair(
        self,
        dataset: DatasetName,
        reference: Subject,
        target: Subject,
        crop: Rgb,
        mask: np.ndarray,
        identity: float,
        likeness: float,
    ) -> PairRow:
        name = f"{dataset}:{reference.row.key}:{target.row.key}"
        picture = self.frames[(target.row.source_hash, target.row.frame_index)]
        scale = 1.25 + 0.9 * chance(self.seed, "scale", name)
        return PairRow(
            pair_id=hashlib.sha256(name.encode()).hexdigest()[:32],
            dataset=dataset,
            split="train",  # until the clusters of the whole dataset are known: see assign_splits
            cluster=target.row.cluster,
            reference_key=reference.row.key,
            target_key=target.row.key,
            reference=encode_png(crop),
            reference_mask=encode_mask(mask),
            target=encode_png(target_square(picture, target.row.box, scale, self.target_side)),
            caption=target.row.caption,
            time_gap=abs(target.row.timestamp - reference.row.timestamp) if same_source(target, reference) else 0.0,
            identity_similarity=identity,
            pixel_similarity=likeness,
            source=target.row.source,
            licence=_of_both(target.row.licence, reference.row.licence),
            consent=_of_both(target.row.consent, reference.row.consent),
            provenance=_of_both(target.row.provenance, reference.row.provenance),
        )


def same_source(a: Subject, b: Subject) -> bool:
    """Whether both are of one source: times of different ones cannot be compared."""
    return a.row.source_hash == b.row.source_hash


def subjects_of(rows: Sequence[SubjectRow], crops: Sequence[Crop], embeddings: np.ndarray) -> list[Subject]:
    """Join accepted subject rows with their crops and embeddings (in the crops' order)."""
    by_key = {row.key: row for row in rows if row.unit == "subject" and row.status == "accepted"}
    return [
        Subject(by_key[crop.key], decode_image(crop.image), decode_mask(crop.mask), embedding)
        for crop, embedding in zip(crops, embeddings, strict=True)
        if crop.key in by_key
    ]


def _of_both(target: str, reference: str) -> str:
    """What is told of the target's source, and of the reference's where that is something else."""
    return target if target == reference else f"{target}; reference: {reference}"


def assign_splits(kinds: dict[str, str], settings: SplitSettings, seed: int) -> dict[str, Split]:
    """Split of every identity cluster, given its kind of source; all rows of a cluster are in one split.

    A cluster's place is the hash of its name, so that it keeps it when others come. `least_test` and `least_val`
    take, of each kind, the clusters nearest to those already held out.
    """
    splits: dict[str, Split] = {}
    for kind in sorted(set(kinds.values())):
        places = sorted((chance(seed, "split", cluster), cluster) for cluster in kinds if kinds[cluster] == kind)
        in_test = sum(place < settings.test for place, _ in places)
        in_val = sum(settings.test <= place < settings.test + settings.val for place, _ in places)
        tests = max(in_test, settings.least_test)
        vals = max(in_val, settings.least_val)
        for position, (_, cluster) in enumerate(places):
            splits[cluster] = "test" if position < tests else "val" if position < tests + vals else "train"
    return splits
