"""DynamicID (arXiv 2503.06505) beside a frozen UNet: the face encoder, SAA's projections and LoRA.

What its second stage trains, the reconfigurator, works on tokens alone and needs no UNet: see flexip.imr.
It is a part of the model from then on, so that one checkpoint holds all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexip.attention import KEYWORD, SubjectProjections, install_processors
from flexip.face_encoder import FaceConfig, FaceEncoder
from flexip.imr import Reconfigurator, ReconfiguratorConfig
from flexip.lora import LoraProjections
from flexip.people import Person
from flexip.saa import Faces, alone, project_faces


@dataclass(frozen=True)
class DynamicIDConfig:
    """The architecture, as a checkpoint tells it."""

    faces: FaceConfig
    reconfigurator: ReconfiguratorConfig | None = None  # none before the second stage
    method: Literal["dynamicid"] = "dynamicid"


class DynamicID(nn.Module):
    """The trainable parts of both stages; the UNet is held by reference and never saved with them."""

    def __init__(self, unet: Any, config: FaceConfig, reconfigurator: ReconfiguratorConfig | None = None):
        """Start K_i, V_i from the UNet's text projections and LoRA from no change.

        Args:
            reconfigurator: of the second stage, in which the parts of the first are frozen; none: the first stage.

        Raises:
            ValueError: `config.context_width` is not the UNet's cross-attention width.
        """
        super().__init__()
        width = unet.config.cross_attention_dim
        if config.context_width != width:
            raise ValueError(f"context_width: {config.context_width}; the UNet's cross-attention width is {width}")
        self.config = DynamicIDConfig(config, reconfigurator)
        self.encoder = FaceEncoder(config)
        self.attention = SubjectProjections(unet)
        self.lora = LoraProjections(unet, config.lora_rank) if config.lora_rank else None
        self.unet = unet
        self.unet.requires_grad_(False)
        install_processors(unet)
        if reconfigurator:
            self.requires_grad_(False)
        self.reconfigurator = Reconfigurator(reconfigurator) if reconfigurator else None

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that the stage trains, by name: the reconfigurator's, or all while there is none."""
        begins = "reconfigurator." if self.reconfigurator else ""
        own = {name: p for name, p in self.named_parameters() if not name.startswith("unet.")}
        return {name: p for name, p in own.items() if name.startswith(begins)}

    def stored(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name: the parameters of both stages, and the means of the batch norms."""
        return {name: t for name, t in self.state_dict().items() if not name.startswith("unet.")}

    def anchored(self) -> dict[str, Tensor]:
        """Of `stored`, what the first stage trains."""
        return {name: t for name, t in self.stored().items() if not name.startswith("reconfigurator.")}

    def faces(self, people: Sequence[Sequence[Person]], size: tuple[int, int], **options: Any) -> Faces:
        """The people of each UNet row, projected for every layer; see `project_faces`."""
        options = {"activated": self.config.faces.activated} | options
        return project_faces(self.attention, people, size, self.lora, **options)

    def predict(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Tensor,
        text: Float[Tensor, "B L D"],
        tokens: Float[Tensor, "B K D"],
    ) -> Float[Tensor, "B C h w"]:
        """The UNet's prediction with one person in each row, wherever the picture has room for them.

        As in training: no box, and no threshold of w, below which no gradient would come.
        """
        faces = self.faces([(Person(one[None]),) for one in tokens], (noisy.shape[2], noisy.shape[3]))
        return self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            cross_attention_kwargs={KEYWORD: alone(faces)},
            return_dict=False,
        )[0]

    def forward(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Tensor,
        text: Float[Tensor, "B L D"],
        identity: Float[Tensor, "B Di"],
        hidden: Float[Tensor, "B N Dh"],
        nobody: Float[Tensor, "N Dh"],
        keep: Bool[Tensor, " B"],
    ) -> Float[Tensor, "B C h w"]:
        """`predict` for the people of these features; a row that is not kept has nobody's tokens."""
        tokens = self.encoder.keep(self.encoder(identity, hidden), keep, nobody)
        return self.predict(noisy, timesteps, text, tokens)
