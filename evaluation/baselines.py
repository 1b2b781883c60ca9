"""What FlexIP is compared with: image prompts in the manner of IP-Adapter, in the same attention, trained the same way.

    ip-adapter        tokens from the CLIP [CLS]                              Z = Attn(T) + s Attn(tokens W')
    ip-adapter-plus   learned queries over CLIP's penultimate states          the same
    plus-dino         learned queries over DINOv2 patches and the CLIP [CLS]  the same

(Ye et al. 2023, section 3.2.) They differ from FlexIP in the adapters alone: W', data, noise, steps and sampler are
shared. The gate's first weight is IP-Adapter's scale; there is nothing for the second one to weigh.

Beside them FlexIP without one of its parts, for ablations: `flexip-without-edits` has no Personalization Adapter,
`flexip-without-shape` no [CLS] queries in its Preservation Adapter.
"""

from pathlib import Path

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from jaxtyping import Float
from torch import Tensor

from flexip.adapters import (
    AdapterConfig,
    Adapters,
    PersonalizationAdapter,
    PreservationAdapter,
    SubjectAdapters,
    SubjectTokens,
)
from flexip.checkpoint import load_checkpoint
from flexip.engine import Engine


class _ImageTokens(SubjectAdapters):
    """As IP-Adapter has it, no subject is features that are zero, not tokens that are zero."""

    def absent(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return self(torch.zeros_like(cls[:1]), torch.zeros_like(patches[:1]), text[:1])


class ImagePrompt(_ImageTokens):
    """IP-Adapter: the CLIP [CLS] expanded to a few tokens."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.projection = ImageProjection(config.clip_width, config.context_width, config.cls_tokens)

    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return SubjectTokens(self.projection(cls), text[:, :0])


class ImagePromptPlus(_ImageTokens):
    """IP-Adapter-Plus: learned queries over the penultimate states of CLIP, which come in the place of patches."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.projection = _resampler(config, config.queries, config.depth)

    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dh"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return SubjectTokens(self.projection(patches), text[:, :0])


class PlusOverDino(_ImageTokens):
    """IP-Adapter-Plus over what FlexIP sees: one stack of learned queries for DINOv2 patches and [CLS] together.

    It has as many tokens as FlexIP's Preservation Adapter, and is as much deeper as makes the parameters equal.
    """

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.cls_expansion = ImageProjection(config.clip_width, config.dino_width, config.cls_tokens)
        self.detail = _resampler(config, config.preservation_tokens, matched_depth(config))

    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        seen = torch.cat([patches, self.cls_expansion(cls)], dim=1)
        return SubjectTokens(self.detail(seen), text[:, :0])


class WithoutEdits(SubjectAdapters):
    """FlexIP's Preservation Adapter alone."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.cls_expansion = ImageProjection(config.clip_width, config.context_width, config.cls_tokens)
        self.preservation = PreservationAdapter(config)

    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return SubjectTokens(self.preservation(patches, self.cls_expansion(cls)), text[:, :0])

    def absent(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return self(cls, patches, text).zeros()


class WithoutShape(SubjectAdapters):
    """FlexIP whose Preservation Adapter has the learned queries alone."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.cls_expansion = ImageProjection(config.clip_width, config.context_width, config.cls_tokens)
        self.detail = _resampler(config, config.queries, config.depth)
        self.personalization = PersonalizationAdapter(config)

    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return SubjectTokens(self.detail(patches), self.personalization(text, self.cls_expansion(cls)))

    def absent(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        return self(cls, patches, text).zeros()


ADAPTERS = {
    "flexip": Adapters,
    "flexip-without-edits": WithoutEdits,
    "flexip-without-shape": WithoutShape,
    "ip-adapter": ImagePrompt,
    "ip-adapter-plus": ImagePromptPlus,
    "plus-dino": PlusOverDino,
}


def matched_depth(config: AdapterConfig) -> int:
    """Perceiver blocks with which `PlusOverDino` has about as many parameters as FlexIP's adapters."""
    return 3 * config.depth


def load_baseline(directory: Path | str, device: str = "cpu") -> Engine:
    """A baseline's checkpoint, ready to sample; `Request.preservation` is its scale.

    Raises:
        CheckpointError: as `load_checkpoint`, or a method that is none of ADAPTERS.
    """
    return load_checkpoint(directory, device, adapters=ADAPTERS)


def _resampler(config: AdapterConfig, queries: int, depth: int) -> IPAdapterPlusImageProjection:
    return IPAdapterPlusImageProjection(
        embed_dims=config.dino_width,
        output_dims=config.context_width,
        hidden_dims=config.context_width,
        depth=depth,
        dim_head=config.dim_head,
        heads=config.heads,
        num_queries=queries,
    )
