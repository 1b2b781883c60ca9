"""The Identity-Motion Reconfigurator of DynamicID: a person's tokens with another expression, looking elsewhere.

    xi' = phi_2(phi_1(xi, psi_source), psi_target)

phi_1 takes the source's motion out of the tokens, phi_2 puts the target's in. A motion psi is a map of landmarks and
a sentence, either of which may be missing. Both are trained on pictures of one person (reconfiguration, see
flexip.training_faces):

    L_edit = ||xi' - xi_target||^2 + lambda ||eps(xi') - eps(xi_target)||^2,   eps of the anchored UNet
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from flexip.encoders import Encoders
from flexip.motion import Motion, Wording, landmark_map, sentence


@dataclass(frozen=True)
class ReconfiguratorConfig:
    """Sizes. The defaults are those of the published code for SD1.5."""

    context_width: int = 768  # D, of a person's tokens
    prompt_width: int = 768  # Dt, of the text encoder's sentence state
    tokens: int = 4  # of a motion
    width: int = 1024  # inside
    heads: int = 16
    dim_head: int = 64
    depth: int = 1  # blocks of each net
    channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512)  # of the landmark encoder, from 96 px to 3


@dataclass(frozen=True)
class MotionInputs:
    """Motions as the reconfigurator reads them."""

    maps: Float[Tensor, "B 1 96 96"]  # -1..1, see `landmark_map`
    prompts: Float[Tensor, "B Dt"]  # zeros where nothing is said

    def select(self, rows: Tensor | slice) -> "MotionInputs":
        """The given rows, in that order; rows may repeat."""
        return MotionInputs(self.maps[rows], self.prompts[rows])


class Reconfigurator(nn.Module):
    """phi_1, phi_2 and what reads a motion."""

    def __init__(self, config: ReconfiguratorConfig):
        super().__init__()
        self.config = config
        self.motion = MotionEncoder(config)
        self.norm_in, self.into = nn.LayerNorm(config.context_width), nn.Linear(config.context_width, config.width)
        self.disentangle, self.entangle = (
            nn.ModuleList(MotionBlock(config.width, config.heads, config.dim_head) for _ in range(config.depth))
            for _ in range(2)
        )
        self.norm_out, self.out = nn.LayerNorm(config.width), nn.Linear(config.width, config.context_width)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name: what a checkpoint holds."""
        return dict(self.named_parameters())

    def identity(self, tokens: Float[Tensor, "B K D"], source: MotionInputs) -> Float[Tensor, "B K W"]:
        """phi_1: who the person is, without what their face does."""
        x, motion = self.into(self.norm_in(tokens)), self.motion(source)
        for block in self.disentangle:
            x = block(x, motion)
        return x

    def perform(self, identity: Float[Tensor, "B K W"], target: MotionInputs) -> Float[Tensor, "B K D"]:
        """phi_2: the person's tokens with the target's motion."""
        x, motion = identity, self.motion(target)
        for block in self.entangle:
            x = block(x, motion)
        return self.out(self.norm_out(x))

    def forward(
        self, tokens: Float[Tensor, "B K D"], source: MotionInputs, target: MotionInputs
    ) -> Float[Tensor, "B K D"]:
        return self.perform(self.identity(tokens, source), target)

    @torch.no_grad()
    def edit(self, tokens: Float[Tensor, "K D"], source: MotionInputs, targets: MotionInputs) -> Float[Tensor, "T K D"]:
        """One person's tokens with each of T motions, for sampling; the module has to be in eval mode.

        Args:
            source: one row, the motion of the picture that the tokens are from.
        """
        return self.perform(self.identity(tokens[None], source).expand(len(targets.maps), -1, -1), targets)


class MotionEncoder(nn.Module):
    """Landmark map and sentence to motion tokens, alike for source and target."""

    def __init__(self, config: ReconfiguratorConfig):
        super().__init__()
        self.tokens = config.tokens
        self.landmarks = landmark_encoder(config.channels, config.context_width)
        both = config.context_width + config.prompt_width
        self.fuse = nn.Sequential(
            nn.LayerNorm(both),
            nn.Linear(both, config.width),
            nn.GELU(),
            nn.LayerNorm(config.width),
            nn.Linear(config.width, config.tokens * config.width),
            nn.GELU(),
        )

    def forward(self, inputs: MotionInputs) -> Float[Tensor, "B Km W"]:
        both = torch.cat([self.landmarks(inputs.maps), inputs.prompts], dim=1)
        return self.fuse(both).unflatten(1, (self.tokens, -1))


class MotionBlock(nn.Module):
    """The face attends to motion and itself, then to itself; a feed-forward net ends the block. All before a norm."""

    def __init__(self, width: int, heads: int, dim_head: int):
        super().__init__()
        self.norm_motion, self.norm_face, self.norm_self = (nn.LayerNorm(width) for _ in range(3))
        self.to_motion, self.to_self = (
            Attention(query_dim=width, heads=heads, dim_head=dim_head, out_bias=False) for _ in range(2)
        )
        self.feed = nn.Sequential(nn.LayerNorm(width), FeedForward(width, mult=4, activation_fn="gelu", bias=False))

    def forward(self, face: Float[Tensor, "B K W"], motion: Float[Tensor, "B Km W"]) -> Float[Tensor, "B K W"]:
        asking = self.norm_face(face)
        face = face + self.to_motion(asking, torch.cat([self.norm_motion(motion), asking], dim=1))
        face = face + self.to_self(self.norm_self(face))
        return face + self.feed(face)


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU; with a shortcut where the shape stays."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1, padding: int = 1, kept: bool = False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(before, after, kernel, stride, padding), nn.BatchNorm2d(after))
        self.kept = kept

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B _ _ _"]:
        return torch.relu(self.body(x) + x if self.kept else self.body(x))


def landmark_encoder(channels: Sequence[int], width: int) -> nn.Sequential:
    """(B, 1, 96, 96) to (B, width): the face encoder of Wav2Lip (Prajwal et al. 2020) for maps of 96 px."""
    layers: list[nn.Module] = [ConvBlock(1, channels[0], kernel=7, padding=3)]
    for before, after, kept in zip(channels[:-1], channels[1:], (2, 3, 2, 2, 1), strict=True):
        layers += [ConvBlock(before, after, stride=2), *(ConvBlock(after, after, kept=True) for _ in range(kept))]
    last = channels[-1]
    head = [ConvBlock(last, last, padding=0), ConvBlock(last, width, kernel=1, padding=0), nn.Flatten()]
    return nn.Sequential(*layers, *head)


def motion_inputs(encoders: Encoders, motions: Sequence[Motion], wording: Wording) -> MotionInputs:
    """Motions in words or landmarks, or both, as the reconfigurator reads them."""
    maps = np.stack([landmark_map(motion.landmarks) for motion in motions])
    sentences = [sentence(motion, wording) for motion in motions]
    said = torch.tensor([bool(words) for words in sentences], device=encoders.device)
    prompts = encoders.encode_sentences(sentences)
    return MotionInputs(
        torch.from_numpy(maps).to(encoders.device, encoders.dtype),
        torch.where(said[:, None], prompts, torch.zeros_like(prompts)),
    )


def feature_loss(tokens: Float[Tensor, "B K D"], wanted: Float[Tensor, "B K D"]) -> Float[Tensor, " B"]:
    """||xi' - xi_target||^2 of each row, as a mean (the paper's L_DFM)."""
    return (tokens.float() - wanted.float()).square().mean(dim=(1, 2))
