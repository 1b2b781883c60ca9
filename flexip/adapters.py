"""The two adapters of FlexIP (section 3, Fig. 3): features of the reference to tokens in the UNet's context width."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexip.encoders import Detail
from flexip.resampler import Resampler

Gating = Literal["branch", "token"]
Merging = Literal["average", "concatenate"]


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of the adapters. The defaults are those of IP-Adapter-Plus for SD1.5; the paper gives none."""

    context_width: int = 768  # D, the UNet's cross-attention width
    clip_width: int = 1024  # Dc
    dino_width: int = 1024  # Dd
    queries: int = 16  # learned queries of the detail stream
    cls_tokens: int = 4  # tokens that the CLIP [CLS] is expanded to
    depth: int = 4  # Perceiver blocks of each stream
    heads: int = 12
    dim_head: int = 64
    gating: Gating = "branch"
    detail: Detail = "dino"  # family of the features that `patches` are
    method: str = "flexip"  # other names are baselines, which `flexip` itself does not know

    @property
    def preservation_tokens(self) -> int:
        return self.queries + self.cls_tokens


@dataclass(frozen=True)
class SubjectTokens:
    """What the adapters say of a subject: P = [P_q, P_cls] and S."""

    preservation: Float[Tensor, "B K D"]
    personalization: Float[Tensor, "B L D"]
    present: Bool[Tensor, "B K"] | None = None  # which of P's tokens count, where rows have different numbers of them

    def select(self, rows: Tensor) -> "SubjectTokens":
        """The given rows, in that order; rows may repeat."""
        present = None if self.present is None else self.present[rows]
        return SubjectTokens(self.preservation[rows], self.personalization[rows], present)

    def zeros(self) -> "SubjectTokens":
        """As many zero tokens, which leave the base model's output alone."""
        return SubjectTokens(torch.zeros_like(self.preservation), torch.zeros_like(self.personalization), self.present)

    def like(self, other: "SubjectTokens") -> "SubjectTokens":
        """This one row, repeated to the rows and the number of tokens of another."""
        rows, count = other.preservation.shape[:2]
        tiled = self.preservation.repeat(1, -(-count // self.preservation.shape[1]), 1)[:, :count]
        return SubjectTokens(tiled.expand(rows, -1, -1), self.personalization.expand(rows, -1, -1), other.present)

    def where(self, kept: Bool[Tensor, " B"], other: "SubjectTokens") -> "SubjectTokens":
        """These tokens in the rows that are kept, the other's elsewhere."""
        chosen = kept[:, None, None]
        return SubjectTokens(
            torch.where(chosen, self.preservation, other.preservation),
            torch.where(chosen, self.personalization, other.personalization),
            self.present,
        )


class PreservationAdapter(nn.Module):
    """Two streams over the same DINOv2 patches: learned queries for detail, CLIP [CLS] queries for global shape."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        width, depth, heads, dim_head = config.context_width, config.depth, config.heads, config.dim_head
        self.detail = IPAdapterPlusImageProjection(
            embed_dims=config.dino_width,
            output_dims=width,
            hidden_dims=width,
            depth=depth,
            dim_head=dim_head,
            heads=heads,
            num_queries=config.queries,
        )
        self.shape = Resampler(config.dino_width, width, depth, heads, dim_head)

    def forward(self, patches: Float[Tensor, "B N Dd"], cls: Float[Tensor, "B Kc D"]) -> Float[Tensor, "B K D"]:
        """P = concat[P_q, P_cls]: CrossAttn*(learned queries, D) and CrossAttn*(c, D)."""
        return torch.cat([self.detail(patches), self.shape(cls, patches)], dim=1)


class PersonalizationAdapter(nn.Module):
    """S = CrossAttn*(Q = T, KV = c): the prompt's tokens, read in the light of the subject."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        width = config.context_width
        self.edits = Resampler(width, width, config.depth, config.heads, config.dim_head)

    def forward(self, text: Float[Tensor, "B L D"], cls: Float[Tensor, "B Kc D"]) -> Float[Tensor, "B L D"]:
        return self.edits(text, cls)


class SubjectAdapters(nn.Module, ABC):
    """Features of references to tokens: what FlexIP and its baselines have in common."""

    @abstractmethod
    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        """Tokens of each row."""

    @abstractmethod
    def absent(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        """What stands for "no subject" in dropped and unconditional rows, one row, given the features' shapes."""


class Adapters(SubjectAdapters):
    """Both adapters and the [CLS] expansion they share."""

    def __init__(self, config: AdapterConfig):
        super().__init__()
        self.config = config
        self.cls_expansion = ImageProjection(config.clip_width, config.context_width, config.cls_tokens)
        self.preservation = PreservationAdapter(config)
        self.personalization = PersonalizationAdapter(config)

    def forward(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        c = self.cls_expansion(cls)
        return SubjectTokens(self.preservation(patches, c), self.personalization(text, c))

    def absent(
        self, cls: Float[Tensor, "B Dc"], patches: Float[Tensor, "B N Dd"], text: Float[Tensor, "B L D"]
    ) -> SubjectTokens:
        """Zero tokens, with which the base model answers."""
        preservation = text.new_zeros(1, self.config.preservation_tokens, self.config.context_width)
        return SubjectTokens(preservation, torch.zeros_like(text[:1]))


def join_tokens(first: SubjectTokens, second: SubjectTokens) -> SubjectTokens:
    """The rows of both, which have as many tokens."""
    present = None
    if first.present is not None and second.present is not None:
        present = torch.cat([first.present, second.present])
    return SubjectTokens(
        torch.cat([first.preservation, second.preservation]),
        torch.cat([first.personalization, second.personalization]),
        present,
    )


def merge_references(tokens: SubjectTokens, owners: Sequence[Sequence[int]], how: Sequence[Merging]) -> SubjectTokens:
    """Tokens of each row from those of its references: their mean, or P of all of them side by side.

    S has one token for each of the text's, so that it is averaged either way. A row without references has zero tokens.

    Args:
        tokens: one row a reference. owners: for each row of the result, its rows of `tokens`. how: for each row.
    """
    p, s = tokens.preservation, tokens.personalization
    parts = [
        p[list(own)].flatten(0, 1) if way == "concatenate" and own else _mean(p, own)
        for own, way in zip(owners, how, strict=True)
    ]
    longest = max(len(part) for part in parts)
    padded = torch.stack([torch.nn.functional.pad(part, (0, 0, 0, longest - len(part))) for part in parts])
    counts = torch.tensor([len(part) for part in parts], device=p.device)
    present = torch.arange(longest, device=p.device) < counts[:, None]
    personalization = torch.stack([_mean(s, own) for own in owners])
    return SubjectTokens(padded, personalization, None if bool(present.all()) else present)


def _mean(tokens: Float[Tensor, "R K D"], rows: Sequence[int]) -> Float[Tensor, "K D"]:
    return tokens[list(rows)].mean(dim=0) if rows else torch.zeros_like(tokens[0])
