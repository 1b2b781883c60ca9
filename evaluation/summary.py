"""What a scored sweep says: curves over gamma with intervals, per subject and over subjects, ready for JSON."""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from evaluation.statistics import Interval, bootstrap_mean, kendall_tau, largest_step
from evaluation.sweep import SweepPlan, SweepScores


@dataclass(frozen=True)
class Protocol:
    """Everything two numbers must share before they may stand in one table."""

    encoders: dict[str, str]  # family -> name of the model
    fingerprints: dict[str, str]  # family -> hash of weights and preprocessing
    resolution: int  # [px] side of the generated square
    steps: int
    guidance_scale: float
    prompts: list[str]
    seeds: list[int]
    gammas: list[float]
    reference_policy: str = "the one image that conditioned the picture"
    identity: str = "cosine; dino: mean of unit patch tokens of the last layer; clip: projected image embedding"
    text: str = "cosine of CLIP image and text embeddings, raw"

    @property
    def id(self) -> str:
        """12 hex characters; equal ids mean comparable numbers."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Curve:
    """One metric against gamma: the mean over subjects with its interval, and each subject's own curve."""

    name: str
    interval: Interval  # arrays of shape (gammas,)
    per_subject: Float[np.ndarray, "subjects gammas"]
    control: float  # the level that the metric must be read against
    control_name: str


@dataclass(frozen=True)
class Summary:
    """The sweep in numbers."""

    protocol: Protocol
    checkpoint: str  # hash of the adapters
    subjects: list[str]
    identity_dino: Curve
    identity_clip: Curve
    text: Curve
    tau: Interval  # Kendall's tau of gamma against identity (DINO), over subjects
    text_tau: Interval  # the same against text alignment: wanted negative, the dial gives the prompt back
    largest_step: float  # mean over subjects of the largest jump of identity between neighbouring gammas

    @property
    def curves(self) -> tuple[Curve, Curve, Curve]:
        """Every metric, in the order in which a report shows them."""
        return self.identity_dino, self.identity_clip, self.text


def summarize(plan: SweepPlan, scores: SweepScores, protocol: Protocol, checkpoint: str) -> Summary:
    """Means over prompts and seeds within each subject, then intervals over subjects."""
    by_subject = {name: values.mean(axis=(1, 2)) for name, values in scores.identity.items()}
    chance = {name: float(values.mean()) for name, values in scores.wrong_subject.items()}
    text = scores.text.mean(axis=(1, 2))
    gammas = np.asarray(plan.gammas)
    identity = {
        name: Curve(f"Identity ({name.upper()})", bootstrap_mean(values), values, chance[name], "another subject")
        for name, values in by_subject.items()
    }
    copy = float(scores.copy_text.mean())
    return Summary(
        protocol=protocol,
        checkpoint=checkpoint,
        subjects=[subject.name for subject in plan.subjects],
        identity_dino=identity["dino"],
        identity_clip=identity["clip"],
        text=Curve("Text alignment (CLIP)", bootstrap_mean(text), text, copy, "a copy of the reference"),
        tau=bootstrap_mean(kendall_tau(gammas, by_subject["dino"])),
        text_tau=bootstrap_mean(kendall_tau(gammas, text)),
        largest_step=float(largest_step(by_subject["dino"]).mean()),
    )


def scores_document(summary: Summary) -> dict:
    """The summary as plain JSON values; what is unknown (an interval of one subject) is null."""
    return {
        "protocol_id": summary.protocol.id,
        "protocol": asdict(summary.protocol),
        "checkpoint": summary.checkpoint,
        "subjects": summary.subjects,
        "gammas": summary.protocol.gammas,
        "kendall_tau_identity": _interval(summary.tau),
        "kendall_tau_text": _interval(summary.text_tau),
        "largest_identity_step": _number(summary.largest_step),
        "curves": {
            key: {
                "name": curve.name,
                **_interval(curve.interval),
                "control": {"name": curve.control_name, "value": _number(curve.control)},
                "per_subject": {
                    name: _number(row) for name, row in zip(summary.subjects, curve.per_subject, strict=True)
                },
            }
            for key, curve in zip(("identity_dino", "identity_clip", "text_clip"), summary.curves, strict=True)
        },
    }


def _interval(interval: Interval) -> dict:
    values = {name: _number(getattr(interval, name)) for name in ("mean", "low", "high")}
    return values | {"confidence": interval.confidence, "unit": "subject", "n": interval.subjects}


def _number(values: Float[np.ndarray, "..."] | float) -> list | float | None:
    if np.ndim(values) > 0:
        return [_number(value) for value in np.asarray(values)]
    return round(float(values), 6) if np.isfinite(values) else None
