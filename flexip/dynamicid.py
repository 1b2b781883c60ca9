"""DynamicID (arXiv 2503.06505) beside a frozen UNet: the face encoder, SAA's projections and LoRA.

What its second stage trains, the reconfigurator, works on tokens alone and needs no UNet: see flexip.imr.
"""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexip.attention import KEYWORD, SubjectProjections, install_processors
from flexip.face_encoder import FaceConfig, FaceEncoder
from flexip.lora import LoraProjections
from flexip.people import Person
from flexip.saa import Faces, alone, project_faces


class DynamicID(nn.Module):
    """The trainable parts of the first stage (anchoring); the UNet is held by reference and never saved with them."""

    def __init__(self, unet: Any, config: FaceConfig):
        """Start K_i, V_i from the UNet's text projections and LoRA from no change.

        Raises:
            ValueError: `config.context_width` is not the UNet's cross-attention width.
        """
        super().__init__()
        width = unet.config.cross_attention_dim
        if config.context_width != width:
            raise ValueError(f"context_width: {config.context_width}; the UNet's cross-attention width is {width}")
        self.config = config
        self.encoder = FaceEncoder(config)
        self.attention = SubjectProjections(unet)
        self.lora = LoraProjections(unet, config.lora_rank) if config.lora_rank else None
        self.unet = unet
        self.unet.requires_grad_(False)
        install_processors(unet)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name: what a checkpoint holds."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("unet.")}

    def faces(self, people: Sequence[Sequence[Person]], size: tuple[int, int], **options: Any) -> Faces:
        """The people of each UNet row, projected for every layer; see `project_faces`."""
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
