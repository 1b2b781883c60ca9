"""What differs between the stages of training: the model, its batches and its loss. All else is one machinery."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from evaluation.baselines import ADAPTERS
from flexip.checkpoint import build_people, read_config
from flexip.dynamicid import DynamicID
from flexip.face_encoder import FaceConfig
from flexip.imr import ReconfiguratorConfig
from flexip.model import FlexIP, adapter_config
from flexip.rows import DATASETS
from flexip.training import Drops, batch_loss, batch_rows
from flexip.training_faces import (
    AnchoringBatch,
    MotionDrops,
    ReconfigurationBatch,
    anchoring_loss,
    build_anchoring_batch,
    build_reconfiguration_batch,
    draw_group,
    edit_loss,
    face_tokens,
)
from jobs.training.assignment import Assignment, Place
from jobs.training.config import TrainConfig
from jobs.training.features import FeatureSource
from jobs.training.feeding import slices, step_parts
from pipelines.shards import FACES


@dataclass(frozen=True)
class Stage:
    """One kind of training."""

    build: Callable[[Assignment, Any], Any]  # the model on a UNet, with its first weights
    parts: Callable[[Assignment, Place, FeatureSource, Any, int], list[Any]]  # of a step, given the model
    loss: Callable[[Any, Any], Float[Tensor, " B"]]


def stage_of(config: TrainConfig) -> Stage:
    """The configured one."""
    if config.stage == "anchoring":
        return Stage(build_anchoring, anchoring_parts, anchoring_loss)
    if config.stage == "reconfiguration":
        loss = partial(edit_loss, weight=config.people.likeness)
        return Stage(build_reconfiguration, reconfiguration_parts, loss)
    return Stage(build_adapters, adapter_parts, batch_loss)


def build_adapters(job: Assignment, unet: Any) -> FlexIP:
    """FlexIP, or the baseline that is asked for."""
    sizes = job.config.adapter
    architecture = adapter_config(unet, job.shapes, sizes.detail, **sizes.model_dump())
    return FlexIP(unet, architecture, ADAPTERS[sizes.method])


def build_anchoring(job: Assignment, unet: Any) -> DynamicID:
    """DynamicID without a reconfigurator."""
    people, shapes = job.config.people, job.shapes
    width = unet.config.cross_attention_dim
    sizes = people.tokens, people.depth, people.heads, people.dim_head, people.lora_rank, people.activated
    return DynamicID(unet, FaceConfig(shapes["identity"][0], shapes["hidden"][-1], width, *sizes))


def build_reconfiguration(job: Assignment, unet: Any) -> DynamicID:
    """DynamicID of the architecture that `start` has, with a new reconfigurator."""
    people, start = job.config.people, str(job.config.start)
    widths = unet.config.cross_attention_dim, job.shapes["prompt"][0]
    sizes = people.motion_tokens, people.motion_width, people.motion_heads, people.dim_head, people.motion_depth
    second = ReconfiguratorConfig(*widths, *sizes, tuple(people.motion_channels))
    return build_people(unet, read_config(start), start, second)


def adapter_parts(job: Assignment, place: Place, source: FeatureSource, model: Any, step: int) -> list[Any]:
    """Of pairs; the model is not asked."""
    return step_parts(job, place, source, step)


def anchoring_parts(
    job: Assignment, place: Place, source: FeatureSource, model: Any, step: int
) -> list[AnchoringBatch]:
    """Of pictures of all people, walked like one dataset of pairs."""
    config, name = job.config, DATASETS[0]
    assert job.faces is not None
    rows = batch_rows(config.seed, step, config.batch_size, {name: job.sizes[FACES]}, {name: 1.0})
    drops, nobody = Drops(**config.drops.model_dump()), job.faces.nobody
    return [
        build_anchoring_batch(
            source(FACES, "train", [row.row for row in rows[part]]),
            nobody,
            drops,
            job.noising,
            np.array([row.seed for row in rows[part]]),
            place.device,
            min_snr=config.optimizer.min_snr,
        )
        for part in slices(config, place)
    ]


def reconfiguration_parts(
    job: Assignment, place: Place, source: FeatureSource, model: DynamicID, step: int
) -> list[ReconfigurationBatch]:
    """Of one person: a source and `batch_size` targets. Every rank draws all of them, and takes its own."""
    config, faces, people = job.config, job.faces, job.config.people
    assert faces is not None
    group = draw_group(config.seed, step, [len(rows) for rows in faces.people], targets=config.batch_size)
    columns = source(FACES, "train", faces.people[group.person])
    columns["tokens"] = face_tokens(model, columns, place.device)
    drops = MotionDrops(people.lose_landmarks, people.lose_sentence)
    batch = build_reconfiguration_batch(columns, group, faces.text, job.noising, drops, place.device)
    return [batch.select(part) for part in slices(config, place)]
