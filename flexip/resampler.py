"""CrossAttn*: given or learned queries attend to features through a stack of Perceiver blocks.

The blocks are those of diffusers' IP-Adapter-Plus projection (keys and values from concat(context, latents)), so that
the learned-query stream keeps a layout that other tools can read.
"""

from diffusers.models.embeddings import IPAdapterPlusImageProjectionBlock
from jaxtyping import Float
from torch import Tensor, nn


class Resampler(nn.Module):
    """CrossAttn*(Q = queries, KV = context), for queries that come from another encoder.

    The same parameters as `IPAdapterPlusImageProjection` but for the learned latents.
    """

    def __init__(self, context_width: int, width: int, depth: int, heads: int, dim_head: int):
        super().__init__()
        self.proj_in = nn.Linear(context_width, width)
        self.layers = nn.ModuleList(
            IPAdapterPlusImageProjectionBlock(width, dim_head=dim_head, heads=heads) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, queries: Float[Tensor, "B K D"], context: Float[Tensor, "B N Dx"]) -> Float[Tensor, "B K D"]:
        context = self.proj_in(context)
        for block in self.layers:
            queries = block(context, queries, queries)
        return self.norm_out(self.proj_out(queries))
