"""The two stages of DynamicID, as functions of a batch: anchoring, then reconfiguration (section on training).

Anchoring trains the face encoder and SAA on pictures of one person, reference = the face in the target:

    L_noise = ||eps - eps(z_t, t, xi, tau)||^2

Reconfiguration trains the reconfigurator alone, on pictures of one person with different expressions and poses, whose
tokens the anchored encoder has made:

    L_edit = ||xi' - xi_target||^2 + lambda ||eps(z_t, t, xi', tau) - eps(z_t, t, xi_target, tau)||^2

Both run under `flexip.training.train_step`, which takes the loss of its model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexip.diffusion import denoising_loss, min_snr_weight
from flexip.dynamicid import DynamicID
from flexip.imr import MotionInputs, Reconfigurator, feature_loss
from flexip.training import Drops, Noising, noise_rows, without_text

NO_DROPS = Drops(0, 0, 0)
FACE_TEXT = "portrait, cinematic photo, film, professional, 4k, highly detailed"  # of the reconfiguration's UNet calls


@dataclass(frozen=True)
class AnchoringBatch:
    """One batch of the first stage, every random draw already made."""

    identity: Float[Tensor, "B Di"]
    hidden: Float[Tensor, "B N Dh"]
    nobody: Float[Tensor, "N Dh"]  # CLIP states of a black picture
    text: Float[Tensor, "B L D"]
    noisy: Float[Tensor, "B C h w"]
    truth: Float[Tensor, "B C h w"]
    timesteps: Int[Tensor, " B"]
    keep: Bool[Tensor, " B"]  # False where the person was dropped
    weight: Float[Tensor, " B"]  # of the row's loss


@dataclass(frozen=True)
class ReconfigurationBatch:
    """One batch of the second stage: one person, a source and a target in each row."""

    tokens: Float[Tensor, "B K D"]  # of the source
    wanted: Float[Tensor, "B K D"]  # of the target
    source: MotionInputs
    target: MotionInputs
    text: Float[Tensor, "B L D"]
    noisy: Float[Tensor, "B C h w"]  # the target's latents
    timesteps: Int[Tensor, " B"]

    def select(self, rows: slice) -> "ReconfigurationBatch":
        """Some of the rows."""
        return ReconfigurationBatch(
            self.tokens[rows],
            self.wanted[rows],
            self.source.select(rows),
            self.target.select(rows),
            self.text[rows],
            self.noisy[rows],
            self.timesteps[rows],
        )


@dataclass(frozen=True)
class MotionDrops:
    """Probabilities that a motion is told by its sentence alone, or by its landmarks alone; else by both.

    Without them an edit in words, which has no landmarks, would be something never seen in training.
    """

    landmarks: float = 0.3
    sentence: float = 0.1


@dataclass(frozen=True)
class Group:
    """Which pictures of which person make a batch of the second stage."""

    person: int
    source: int  # index among the person's pictures
    targets: tuple[int, ...]
    seed: int  # of everything else drawn for this batch


def build_anchoring_batch(
    columns: Mapping[str, np.ndarray],
    nobody: Float[Tensor, "N Dh"],
    drops: Drops,
    noising: Noising,
    row_seeds: np.ndarray,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    min_snr: float | None = None,
) -> AnchoringBatch:
    """Turn the columns "identity", "hidden", "text" and "vae" into a batch; each row is drawn from its own seed.

    Raises:
        KeyError: a column is missing.
    """
    identity, hidden, text, moments = (
        torch.from_numpy(np.asarray(columns[name])).to(device, dtype) for name in ("identity", "hidden", "text", "vae")
    )
    noised = noise_rows(moments, drops, noising, row_seeds)
    abar = noised.alpha_bar
    return AnchoringBatch(
        identity=identity,
        hidden=hidden,
        nobody=nobody.to(device, dtype),
        text=without_text(text, noised.lose_text, noising),
        noisy=noised.noisy,
        truth=noised.truth,
        timesteps=noised.timesteps,
        keep=~noised.lose_image,
        weight=torch.ones_like(abar) if min_snr is None else min_snr_weight(abar, min_snr, noising.prediction_type),
    )


def anchoring_loss(model: DynamicID, batch: AnchoringBatch) -> Float[Tensor, " B"]:
    """Weighted denoising loss of each row."""
    prediction = model(batch.noisy, batch.timesteps, batch.text, batch.identity, batch.hidden, batch.nobody, batch.keep)
    return denoising_loss(prediction, batch.truth) * batch.weight


@torch.no_grad()
def face_tokens(
    model: DynamicID, columns: Mapping[str, np.ndarray], device: str = "cpu", rows: int = 64
) -> Float[np.ndarray, "n K D"]:
    """The anchored encoder's tokens of columns "identity" and "hidden": what the second stage works on."""
    parts = []
    for start in range(0, len(columns["identity"]), rows):
        identity, hidden = (
            torch.from_numpy(np.asarray(columns[name][start : start + rows])).to(device, torch.float32)
            for name in ("identity", "hidden")
        )
        parts.append(model.encoder(identity, hidden).cpu().numpy())
    return np.concatenate(parts)


def draw_group(seed: int, step: int, pictures: Sequence[int], targets: int = 32) -> Group:
    """The batch of one step: a pure function of (seed, step). Everybody comes once before anybody comes again.

    Targets are drawn with replacement, as in the published code.

    Args:
        pictures: how many there are of each person.

    Raises:
        ValueError: somebody has fewer than two pictures, or there is nobody.
    """
    if not pictures or min(pictures) < 2:
        raise ValueError(
            f"pictures: {min(pictures, default=0)} of a person; the second stage needs two or more of everybody"
        )
    epoch, place = divmod(step, len(pictures))
    person = int(np.random.default_rng([seed, epoch]).permutation(len(pictures))[place])
    rng = np.random.default_rng([seed, step, 1])
    source, *others = (int(i) for i in rng.integers(pictures[person], size=targets + 1))
    return Group(person, source, tuple(others), int(rng.integers(1 << 62)))


def build_reconfiguration_batch(
    columns: Mapping[str, np.ndarray],
    group: Group,
    text: Float[Tensor, "L D"],
    noising: Noising,
    drops: MotionDrops | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ReconfigurationBatch:
    """A batch from the pictures of one person: columns "tokens", "map", "prompt" and "vae", a row a picture.

    Args:
        text: states of FACE_TEXT, or of what else the UNet is told in every row.

    Raises:
        KeyError: a column is missing.
    """
    sources = np.full(len(group.targets), group.source)

    def taken(name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(columns[name])[rows]).to(device, dtype)

    def motion(rows: np.ndarray, stream: int) -> MotionInputs:
        whole = MotionInputs(taken("map", rows), taken("prompt", rows))
        return drop_motion(whole, drops or MotionDrops(), np.random.default_rng([group.seed, stream]))

    targets = np.asarray(group.targets)
    seeds = np.random.default_rng([group.seed, 0]).integers(1 << 62, size=len(targets))
    noised = noise_rows(taken("vae", targets), NO_DROPS, noising, seeds)
    return ReconfigurationBatch(
        tokens=taken("tokens", sources),
        wanted=taken("tokens", targets),
        source=motion(sources, 1),
        target=motion(targets, 2),
        text=text.to(device, dtype).expand(len(targets), -1, -1),
        noisy=noised.noisy,
        timesteps=noised.timesteps,
    )


def drop_motion(inputs: MotionInputs, drops: MotionDrops, rng: np.random.Generator) -> MotionInputs:
    """Some rows lose their landmarks, some others their sentence."""
    u = torch.from_numpy(rng.random(len(inputs.maps))).to(inputs.maps.device)
    lose_landmarks, lose_sentence = u < drops.landmarks, u >= 1 - drops.sentence
    blank = torch.full_like(inputs.maps, -1)
    return MotionInputs(
        torch.where(lose_landmarks[:, None, None, None], blank, inputs.maps),
        torch.where(lose_sentence[:, None], torch.zeros_like(inputs.prompts), inputs.prompts),
    )


def reconfiguration_loss(
    model: Reconfigurator, batch: ReconfigurationBatch, anchored: DynamicID | None, weight: float = 1.0
) -> Float[Tensor, " B"]:
    """L_edit of each row; bind `anchored` and `weight` with functools.partial for `train_step`.

    Args:
        anchored: the first stage's model, frozen by the caller; None leaves the second term out, and the UNet calls.
        weight: lambda.
    """
    tokens = model(batch.tokens, batch.source, batch.target)
    loss = feature_loss(tokens, batch.wanted)
    if anchored is None or not weight:
        return loss
    with torch.no_grad():
        right = anchored.predict(batch.noisy, batch.timesteps, batch.text, batch.wanted)
    found = anchored.predict(batch.noisy, batch.timesteps, batch.text, tokens)
    return loss + weight * denoising_loss(found, right)


def edit_loss(model: DynamicID, batch: ReconfigurationBatch, weight: float = 1.0) -> Float[Tensor, " B"]:
    """L_edit of a model that holds its reconfigurator and the anchored parts, which are frozen."""
    assert model.reconfigurator is not None
    return reconfiguration_loss(model.reconfigurator, batch, model, weight)
