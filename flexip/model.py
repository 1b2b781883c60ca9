"""FlexIP: a frozen UNet, two adapters and one shared projection pair a layer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexip.adapters import AdapterConfig, Adapters, SubjectAdapters, SubjectTokens, join_tokens
from flexip.attention import (
    KEYWORD,
    SubjectConditioning,
    SubjectProjections,
    check_processors,
    cross_attention_layers,
    install_processors,
    project_subjects,
    remove_processors,
)
from flexip.encoders import Detail
from flexip.gate import Gate

AdapterBuilder = Callable[[AdapterConfig], SubjectAdapters]


class FlexIP(nn.Module):
    """The trainable parts beside a frozen UNet, which is held by reference and never saved with them."""

    def __init__(self, unet: Any, config: AdapterConfig, build: AdapterBuilder = Adapters):
        """Start W' from the UNet's text projections and give its attention layers the gated processors.

        Args:
            build: makes the module from (cls, patches, text) to SubjectTokens; baselines bring another.

        Raises:
            ValueError: `config.context_width` is not the UNet's cross-attention width.
        """
        super().__init__()
        width = unet.config.cross_attention_dim
        if config.context_width != width:
            raise ValueError(f"context_width: {config.context_width}; the UNet's cross-attention width is {width}")
        self.config = config
        self.adapters = build(config)
        self.attention = SubjectProjections(unet)
        self.unet = unet
        self.unet.requires_grad_(False)
        install_processors(unet)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("unet.")}

    def stored(self) -> dict[str, nn.Parameter]:
        """What a checkpoint holds, by name: the trained parameters."""
        return self.trainable()

    def subject_tokens(
        self,
        cls: Float[Tensor, "B Dc"],
        patches: Float[Tensor, "B N Dd"],
        text: Float[Tensor, "B L D"],
        keep: Bool[Tensor, " B"] | None = None,
    ) -> SubjectTokens:
        """P and S of each row; a row that is not kept has what stands for no subject: FlexIP's are zero tokens."""
        tokens = self.adapters(cls, patches, text)
        return tokens if keep is None else tokens.where(keep, self.absent_tokens(tokens, cls, patches, text))

    def absent_tokens(
        self,
        tokens: SubjectTokens,
        cls: Float[Tensor, "R Dc"],
        patches: Float[Tensor, "R N Dd"],
        text: Float[Tensor, "B L D"],
    ) -> SubjectTokens:
        """As many rows and tokens as `tokens`, that say there is no subject; of the features only the shapes count."""
        return self.adapters.absent(cls[:1], patches[:1], text[:1]).like(tokens)

    def conditioning(self, tokens: SubjectTokens, gate: Gate) -> SubjectConditioning:
        """Keys and values of the tokens for every layer, computed once for all steps."""
        return project_subjects(tokens, self.attention, gate, self.config.gating)

    def forward(
        self,
        noisy: Float[Tensor, "B C h w"],
        timesteps: Tensor,
        text: Float[Tensor, "B L D"],
        cls: Float[Tensor, "B Dc"],
        patches: Float[Tensor, "B N Dd"],
        gate: Gate,
        keep: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The UNet's prediction for noisy latents, under the subject and the gate of each row."""
        subject = self.conditioning(self.subject_tokens(cls, patches, text, keep), gate)
        return self.unet(
            noisy, timesteps, encoder_hidden_states=text, cross_attention_kwargs={KEYWORD: subject}, return_dict=False
        )[0]

    def attach(self, pipe: Any) -> None:
        """Make any diffusers SD1.5 pipeline ready for `condition`, whatever its task.

        Raises:
            ValueError: the pipeline's UNet has other cross-attention layers than the one trained with, or processors
                with weights of their own (an IP-Adapter's), which would be lost.
        """
        ours = {name: (m.query_dim, m.cross_attention_dim) for name, m in cross_attention_layers(self.unet)}
        theirs = {name: (m.query_dim, m.cross_attention_dim) for name, m in cross_attention_layers(pipe.unet)}
        if ours != theirs:
            odd = sorted(ours.keys() ^ theirs.keys()) or [name for name in ours if ours[name] != theirs[name]]
            raise ValueError(f"pipe.unet: cross-attention layers differ from the trained UNet's, first: {odd[0]}")
        weighty = {type(p).__name__ for p in pipe.unet.attn_processors.values() if isinstance(p, nn.Module)}
        if weighty:
            raise ValueError(
                f"pipe.unet: processors {', '.join(sorted(weighty))} hold weights that would be lost;"
                " call pipe.unload_ip_adapter() first"
            )
        install_processors(pipe.unet)

    def detach(self, pipe: Any) -> None:
        """Give the pipeline diffusers' own attention back: it is the bare pipeline from then on."""
        remove_processors(pipe.unet)

    @torch.no_grad()
    def condition(
        self,
        pipe: Any,
        prompt: Sequence[str],
        subjects: tuple[Float[Tensor, "B Dc"], Float[Tensor, "B N Dd"]],
        gate: Gate | Sequence[Gate],
        guidance_scale: float = 7.5,
        n: int = 1,
        negative_prompt: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Arguments for `pipe(**model.condition(...), guidance_scale=...)`.

        Args:
            prompt: B prompts. subjects: [CLS] and patches of B references, from `Encoders.encode_references`.
            gate: B rows; several are spread over the steps, in their order.
            guidance_scale: the one the pipeline gets; above 1 the conditioning has 2 B n rows,
                unconditional first, without a subject and with the same gate. n: pictures a prompt.

        Returns:
            prompt_embeds and, with guidance, negative_prompt_embeds, (B n, L, D) each; cross_attention_kwargs; for
            several gates callback_on_step_end.

        Raises:
            ValueError: rows that do not match. RuntimeError: a processor was replaced after `attach`.
        """
        check_processors(pipe.unet)
        cls, patches = subjects
        gates = [gate] if isinstance(gate, Gate) else list(gate)
        odd = {one.rows for one in gates} - {len(prompt)}
        if not len(prompt) == len(cls) == len(patches) or odd or not gates:
            given = odd.pop() if odd else gates[0].rows if gates else 0
            raise ValueError(
                f"rows: {len(prompt)} prompts, {len(cls)} subjects, {given} gate rows; all must be the same"
            )
        guided = guidance_scale > 1
        text, negative = pipe.encode_prompt(
            list(prompt), pipe.unet.device, 1, guided, list(negative_prompt) if negative_prompt else None
        )
        tokens = self.subject_tokens(cls, patches, text)
        rows = torch.arange(len(prompt), device=text.device).repeat_interleave(n)
        tokens, repeated = tokens.select(rows), rows.cpu()
        arguments: dict[str, Any] = {"prompt_embeds": text[rows]}
        if guided:
            arguments["negative_prompt_embeds"] = negative[rows]
            absent = self.absent_tokens(tokens, cls, patches, text)
            tokens, repeated = join_tokens(absent, tokens), repeated.repeat(2)
        gates = [one.select(repeated).to(text.device, text.dtype) for one in gates]  # once, not in every layer
        subject = self.conditioning(tokens, gates[0])
        arguments["cross_attention_kwargs"] = {KEYWORD: subject}
        if len(gates) > 1:
            arguments["callback_on_step_end"] = partial(_set_next_gate, subject, gates)
        return arguments


def _set_next_gate(
    subject: SubjectConditioning, gates: Sequence[Gate], pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]
) -> dict[str, Any]:
    """A diffusers callback: before the next step the conditioning of this call gets the gate of that step."""
    subject.gate = gates[min((step + 1) * len(gates) // pipe.num_timesteps, len(gates) - 1)]
    return tensors


def adapter_config(
    unet: Any, shapes: dict[str, tuple[int, ...]], detail: Detail = "dino", **sizes: Any
) -> AdapterConfig:
    """The adapter configuration whose widths fit a UNet and `Encoders.shapes`; `sizes` are the free ones."""
    return AdapterConfig(
        context_width=unet.config.cross_attention_dim,
        clip_width=shapes["clip"][-1],
        dino_width=shapes[detail][-1],
        detail=detail,
        **sizes,
    )
