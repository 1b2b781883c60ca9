"""Casting: from a picture of somebody to the person that a request asks for.

    face = the one face of the picture      xi = encoder(identity, CLIP states of its crop)
    xi' = phi_2(phi_1(xi, landmarks of the face), the expression and pose asked for)

A person without a motion keeps the expression and pose of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexip.dynamicid import DynamicID
from flexip.encoders import Encoders
from flexip.faces import CROP, Face, FaceLibrary
from flexip.images import Rgb
from flexip.imr import motion_inputs
from flexip.motion import KDEF_WORDING, POCKET_WORDING, Motion, Wording, driven_by
from flexip.people import Box, Person


@dataclass(frozen=True)
class Casting:
    """A trained DynamicID, in eval mode, and what it looks at a picture with."""

    model: DynamicID
    encoders: Encoders
    library: FaceLibrary
    digest: str = ""  # SHA-256 of the checkpoint's file, hex; empty for a model that was never saved

    def person(
        self,
        picture: Rgb,
        motion: Motion | None = None,
        box: Box | None = None,
        strength: float = 1.0,
        field: str = "image",
    ) -> Person:
        """The person of a picture that shows one face.

        Args:
            motion: what the face is to do. field: what the picture is called in an error.

        Raises:
            FaceError: no face in the picture, or several. ValueError: a box or strength out of bounds; a motion, where
                the model has not had its second stage.
        """
        face = self.library.only(picture, field)
        tokens = self.tokens([face])
        if motion is not None:
            tokens = self.moved(tokens[0], face, [motion])
        return Person(tokens, box, strength=strength)

    @torch.no_grad()
    def tokens(self, faces: Sequence[Face]) -> Float[Tensor, "F K D"]:
        """The tokens of each face as it is."""
        hidden = self.encoders.encode_hidden([face.crop for face in faces])
        identity = torch.stack([torch.as_tensor(face.identity) for face in faces])
        return self.model.encoder(identity.to(hidden), hidden)

    def moved(self, tokens: Float[Tensor, "K D"], face: Face, motions: Sequence[Motion]) -> Float[Tensor, "T K D"]:
        """The tokens of a face with each of these motions. Raises ValueError without a reconfigurator."""
        if self.model.reconfigurator is None:
            raise ValueError(
                "expression, pose: this DynamicID has had its first stage alone, and people keep those of their"
                " pictures; leave them out, or load a checkpoint of the second"
            )
        source, targets = (motion_inputs(self.encoders, m, self.wording) for m in ([driven_by(face)], motions))
        return self.model.reconfigurator.edit(tokens, source, targets)

    @property
    def moves(self) -> bool:
        """Whether people can be given another expression and pose than those of their pictures."""
        return self.model.reconfigurator is not None

    def absent(self, people: Sequence[Person]) -> tuple[Person, ...]:
        """Nobody in everybody's place: the people of an unconditional row."""
        return tuple(replace(person, tokens=self.nobody, shares=(1.0,)) for person in people)

    @cached_property
    def nobody(self) -> Float[Tensor, "1 K D"]:
        """The tokens that stand for no person."""
        with torch.no_grad():
            return self.model.encoder.nobody(nobody_states(self.encoders))

    @property
    def wording(self) -> Wording:
        """How the text encoder is told of a motion."""
        return wording_of(self.encoders)


def nobody_states(encoders: Encoders) -> Float[Tensor, "N Dh"]:
    """CLIP states of a black picture."""
    return encoders.encode_hidden([np.zeros((CROP, CROP, 3), np.uint8)])[0]


def wording_of(encoders: Encoders) -> Wording:
    """The sentences that a text encoder understands: the pocket one has a vocabulary of its own."""
    return POCKET_WORDING if encoders.names.base == "pocket" else KDEF_WORDING
