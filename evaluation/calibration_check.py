"""Is the ruler right? Real photographs of DreamBench's subjects must score what their authors published."""

from dataclasses import dataclass

import numpy as np

from evaluation.benchmarks import Benchmark
from evaluation.cache import VectorCache
from evaluation.eyes import Eye
from evaluation.metrics import real_similarity

# DreamBooth (Ruiz et al. 2023), Table 1: real images. Its CLIP backbone and pairing are not stated, hence a tolerance.
PUBLISHED = {"DINO-I": 0.774, "CLIP-I": 0.885}
BACKBONES = {"DINO-I": "vit_small_patch16_224.dino", "CLIP-I": "ViT-B-32-quickgelu/openai"}
TOLERANCE = 0.02
NAME, SUBJECTS = "dreambench", 30  # the whole benchmark; in a pool its subjects begin with its name


@dataclass(frozen=True)
class Check:
    """One metric of real pictures against what was published."""

    metric: str
    found: float
    published: float
    subjects: int  # fewer than the benchmark's thirty make the mean another one
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        return bool(abs(self.found - self.published) <= self.tolerance)

    @property
    def line(self) -> str:
        """As it is printed."""
        some = "" if self.subjects == SUBJECTS else f"; {self.subjects} of {SUBJECTS} subjects, so read it loosely"
        return (
            f"{'PASS' if self.passed else 'FAIL'} {self.metric} of real pictures {self.found:.3f}, published "
            f"{self.published:.3f} ± {self.tolerance:.3f}{some}"
        )


def check_real_pictures(benchmark: Benchmark, clip: Eye, dino: Eye, cache: VectorCache) -> list[Check]:
    """Mean cosine between different photographs of one subject, over subjects with two at least.

    Only for the backbones whose numbers were published: any other has another level, and nothing is returned.
    """
    subjects = [s for s in benchmark.subjects if benchmark.name == NAME or s.name.startswith(f"{NAME}/")]
    checks = []
    for metric, eye in (("DINO-I", dino), ("CLIP-I", clip)):
        if eye.name != BACKBONES[metric]:
            continue
        each = []
        for subject in subjects:
            digests = [photo.digest for photo in subject.photos]
            photos = subject.photos
            vectors = cache.vectors(
                eye.maker, digests, lambda rows, of=photos, by=eye: by.see([of[i].image for i in rows])
            )
            each.append(real_similarity(vectors))
        known = np.array(each)[np.isfinite(each)]
        if len(known):
            checks.append(Check(metric, float(known.mean()), PUBLISHED[metric], len(known)))
    return checks
