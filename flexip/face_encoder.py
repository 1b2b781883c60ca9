"""The face encoder of DynamicID: an identity vector asks a picture's CLIP states what the person looks like.

The architecture is that of IP-Adapter-FaceID-Plus without its shortcut: the queries come from the identity vector, the
keys and values from CLIP's penultimate states (family "hidden").
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexip.resampler import Resampler


@dataclass(frozen=True)
class FaceConfig:
    """Sizes of what DynamicID trains first. The defaults are those of its published code for SD1.5."""

    identity_width: int = 512  # Di, of the face library's identity vector
    hidden_width: int = 1280  # Dh, of CLIP's penultimate states
    context_width: int = 768  # D, the UNet's cross-attention width
    tokens: int = 4  # K, of each identity
    depth: int = 4
    heads: int = 12
    dim_head: int = 64
    lora_rank: int = 128  # of the attention projections; 0: they stay as they are
    activated: bool = True  # False: an identity acts alike at all positions (w = 1), the model without SAA


class FaceEncoder(nn.Module):
    """Identity vector and CLIP states to the tokens of a person."""

    def __init__(self, config: FaceConfig):
        super().__init__()
        self.config = config
        width = config.context_width
        self.queries = nn.Sequential(
            nn.Linear(config.identity_width, 2 * config.identity_width),
            nn.GELU(),
            nn.Linear(2 * config.identity_width, config.tokens * width),
        )
        self.norm = nn.LayerNorm(width)
        self.looks = Resampler(config.hidden_width, width, config.depth, config.heads, config.dim_head)

    def forward(self, identity: Float[Tensor, "B Di"], hidden: Float[Tensor, "B N Dh"]) -> Float[Tensor, "B K D"]:
        queries = self.norm(self.queries(identity).unflatten(1, (self.config.tokens, -1)))
        return self.looks(queries, hidden)

    def keep(
        self,
        tokens: Float[Tensor, "B K D"],
        kept: Bool[Tensor, " B"],
        nobody: Float[Tensor, "N Dh"],
    ) -> Float[Tensor, "B K D"]:
        """These tokens in the rows that are kept, and nobody's elsewhere."""
        return torch.where(kept[:, None, None], tokens, self.nobody(nobody))

    def nobody(self, hidden: Float[Tensor, "N Dh"]) -> Float[Tensor, "1 K D"]:
        """What stands for no person in dropped and unconditional rows: an identity vector of zeros.

        Args:
            hidden: CLIP states of a black picture.
        """
        return self(hidden.new_zeros(1, self.config.identity_width), hidden[None])
