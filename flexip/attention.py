"""Gated cross-attention for a diffusers UNet.

    branch:  Z = Attn(Q, K_T, V_T) + g_p Attn(Q, P W'_k, P W'_v) + g_s Attn(Q, S W'_k, S W'_v)
    token:   Z = Attn(Q, K_T, V_T) + Attn(Q, E W'_k, E W'_v),  E = concat[g_p P, g_s S]

What is added to the text's part may also be weighed by block and by region (`Gate.local`), and several subjects may add
to one row: Z = Z_T + sum_i m_i (g_p,i A_p,i + g_s,i A_s,i).

(FlexIP, Fig. 3 and section 3.4; whether the gate scales tokens or branches is not said, so it is a switch.)

Everything a request brings travels in `SubjectConditioning` through `cross_attention_kwargs`; processors hold nothing
but their layer's name. Keys and values of tokens that stay the same over the steps are computed once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexip.adapters import Gating, SubjectTokens
from flexip.gate import Gate

KEYWORD = "subject"  # of cross_attention_kwargs


@dataclass(frozen=True)
class KeysValues:
    """Projected tokens of one layer, heads still folded: (B, tokens, inner)."""

    keys: Float[Tensor, "B K E"]
    values: Float[Tensor, "B K E"]
    present: Bool[Tensor, "B K"] | None = None  # False for padding; None: all count

    def select(self, rows: Tensor) -> "KeysValues":
        present = None if self.present is None else self.present[rows]
        return type(self)(self.keys[rows], self.values[rows], present)


@dataclass
class TextCache:
    """Text keys and values of one layer, valid for one tensor of text states and one state of `to_k`, `to_v`."""

    source: Tensor
    state: tuple[Any, ...]
    projected: KeysValues


class Companion(ABC):
    """What else acts in the layers, in rows of its own: people's faces, see flexip.saa."""

    @abstractmethod
    def adapt(self, attn: Any, name: str) -> Any:
        """The layer, self- or cross-attention, with projections that may be others in its rows."""

    @abstractmethod
    def add(
        self, z: Float[Tensor, "B heads X d"], query: Float[Tensor, "B heads X d"], name: str
    ) -> Float[Tensor, "B heads X d"]:
        """Z of a cross-attention layer and what is added to it in its rows."""


@dataclass
class SubjectConditioning:
    """The subjects of a batch as the UNet's layers see them: keys, values and gate have one row a subject."""

    preservation: dict[str, KeysValues]  # layer name -> P W'
    personalization: dict[str, KeysValues]  # layer name -> S W'
    gate: Gate
    gating: Gating = "branch"
    text_cache: dict[str, TextCache] = field(default_factory=dict)
    rows: Int[Tensor, " S"] | None = None  # the UNet row each subject acts in; None: one a row, in their order
    companion: Companion | None = None


class SubjectProjections(nn.ModuleDict):
    """The one trainable pair W'_k, W'_v of each cross-attention layer, started from the layer's text projections."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        for name, layer in cross_attention_layers(unet):
            pair = nn.ModuleDict({"to_k": _copied(layer.to_k), "to_v": _copied(layer.to_v)})
            self[name.replace(".", "/")] = pair

    def project(
        self, tokens: Float[Tensor, "B K D"], present: Bool[Tensor, "B K"] | None = None
    ) -> dict[str, KeysValues]:
        """Keys and values of `tokens` for every layer, by the layer's name in the UNet."""
        return {
            name.replace("/", "."): KeysValues(pair["to_k"](tokens), pair["to_v"](tokens), present)  # type: ignore[index]
            for name, pair in self.items()
        }


class SelfAttention(AttnProcessor2_0):
    """The stock processor, accepting the keyword that cross-attention reads."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, subject=None
    ) -> Tensor:
        if subject is not None:
            attn = adapted_layer(attn, subject, self.name)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class GatedCrossAttention(AttnProcessor2_0):
    """Text attention plus the gated attention to the subject's tokens; the stock processor when there is no subject."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "B X E"],
        encoder_hidden_states: Float[Tensor, "B L D"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        subject: SubjectConditioning | None = None,
    ) -> Float[Tensor, "B X E"]:
        if subject is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if encoder_hidden_states is None:
            raise ValueError(f"{self.name}: no text states; pass prompt_embeds of the same rows as the subject")
        if subject.rows is None and subject.gate.rows != hidden_states.shape[0]:
            raise ValueError(
                f"{self.name}: conditioning has {subject.gate.rows} rows, the UNet's batch {hidden_states.shape[0]};"
                " call condition() with the pipeline's own guidance_scale and number of images"
            )
        layer = adapted_layer(attn, subject, self.name)
        query = split_heads(layer.to_q(hidden_states), attn.heads)
        text = _text_keys_values(self.name, layer, encoder_hidden_states, subject)
        z = _attend(query, text, _text_mask(attn, attention_mask, encoder_hidden_states))
        z = add_subjects(z, query, subject, self.name)
        if subject.companion is not None:
            z = subject.companion.add(z, query, self.name)
        hidden_states = layer.to_out[0](merge_heads(z))
        hidden_states = layer.to_out[1](hidden_states)
        return hidden_states / attn.rescale_output_factor


def adapted_layer(attn: Any, subject: SubjectConditioning, name: str) -> Any:
    """The layer as the companion's rows see it."""
    return attn if subject.companion is None else subject.companion.adapt(attn, name)


def add_subjects(
    z: Float[Tensor, "B heads X d"],
    query: Float[Tensor, "B heads X d"],
    subject: SubjectConditioning,
    name: str,
) -> Float[Tensor, "B heads X d"]:
    """The text's part of Z and, in each row, the parts of the subjects that act there."""
    if subject.rows is None:
        return z + gated_attention(query, subject, name)
    if not len(subject.rows):
        return z
    return z.index_add(0, subject.rows, gated_attention(query[subject.rows], subject, name))


def gated_attention(
    query: Float[Tensor, "S heads X d"], subject: SubjectConditioning, name: str
) -> Float[Tensor, "S heads X d"]:
    """Each subject's part of Z, by the switch `gating`."""
    gate = subject.gate.to(query.device, query.dtype)
    p, s = subject.preservation[name], subject.personalization[name]
    if subject.gating == "branch":
        g_p, g_s = gate.preservation[:, None, None, None], gate.personalization[:, None, None, None]
        added = g_p * _attend(query, p, _present(p))
        if s.keys.shape[1]:  # a baseline has no tokens here
            added = torch.addcmul(added, g_s, _attend(query, s))  # one launch for two
    else:
        both = _side_by_side(p, s, gate)
        added = _attend(query, both, _present(both))
    local = gate.local(name, query.shape[2])
    return added if local is None else local * added


def _side_by_side(p: KeysValues, s: KeysValues, gate: Gate) -> KeysValues:
    """concat[g_p P, g_s S]; W' has no bias, so scaling the projected tokens is scaling the tokens themselves."""
    g_p, g_s = gate.preservation[:, None, None], gate.personalization[:, None, None]
    keys = torch.cat([g_p * p.keys, g_s * s.keys], dim=1)
    values = torch.cat([g_p * p.values, g_s * s.values], dim=1)
    if p.present is None:
        return KeysValues(keys, values)
    return KeysValues(keys, values, torch.cat([p.present, p.present.new_ones(s.keys.shape[:2])], dim=1))


def _present(kv: KeysValues) -> Tensor | None:
    return None if kv.present is None else kv.present[:, None, None, :]


def cross_attention_layers(unet: nn.Module) -> Iterator[tuple[str, Attention]]:
    """Name and module of every cross-attention layer, in the UNet's own order."""
    for name, module in unet.named_modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            yield name, module


def install_processors(unet: Any) -> None:
    """Give every attention layer of a diffusers UNet the processor that knows the subject keyword."""
    cross = {f"{name}.processor" for name, _ in cross_attention_layers(unet)}
    unet.set_attn_processor(
        {
            name: (GatedCrossAttention if name in cross else SelfAttention)(name.removesuffix(".processor"))
            for name in unet.attn_processors
        }
    )


def remove_processors(unet: Any) -> None:
    """Give every attention layer of a diffusers UNet diffusers' own processor."""
    unet.set_attn_processor({name: AttnProcessor2_0() for name in unet.attn_processors})


def check_processors(unet: Any) -> None:
    """Raise when a processor was replaced since: the subject would be ignored without a word.

    Raises:
        RuntimeError: names the first replaced layer.
    """
    for name, processor in unet.attn_processors.items():
        if not isinstance(processor, (GatedCrossAttention, SelfAttention)):
            raise RuntimeError(
                f"{name}: processor {type(processor).__name__} does not know the subject;"
                " call attach(pipe) again, after whatever replaced it"
            )


def project_subjects(
    tokens: SubjectTokens, projections: SubjectProjections, gate: Gate, gating: Gating
) -> SubjectConditioning:
    """Project the tokens for every layer, once: the conditioning of as many rows."""
    return SubjectConditioning(
        projections.project(tokens.preservation, tokens.present),
        projections.project(tokens.personalization),
        gate,
        gating,
    )


def project_text(unet: nn.Module, text: Float[Tensor, "B L D"], subject: SubjectConditioning) -> None:
    """Fills the conditioning's cache with the text's keys and values of every layer."""
    for name, layer in cross_attention_layers(unet):
        _text_keys_values(name, adapted_layer(layer, subject, name), text, subject)


def regroup(
    parts: Sequence[tuple[SubjectConditioning, Float[Tensor, "_ L D"]]],
    rows: Int[Tensor, " R"],
    subjects: Int[Tensor, " S"],
) -> tuple[SubjectConditioning, Float[Tensor, "R L D"]]:
    """Chosen rows and subjects of several batches, counted through, as one batch with its text states.

    Nothing is projected anew: keys and values of tokens and text are taken over; of the gates the two weights alone.
    In which rows the subjects act, and beside whom, is for the caller to say.
    """
    conditionings, texts = zip(*parts, strict=True)
    text = torch.cat(texts)[rows]
    names = conditionings[0].preservation
    preservation, personalization = (
        torch.cat([getattr(c.gate, w) for c in conditionings])[subjects] for w in ("preservation", "personalization")
    )
    regrouped = SubjectConditioning(
        {name: _stacked([c.preservation[name] for c in conditionings]).select(subjects) for name in names},
        {name: _stacked([c.personalization[name] for c in conditionings]).select(subjects) for name in names},
        Gate(preservation, personalization),
        conditionings[0].gating,
    )
    for name in set.intersection(*(set(c.text_cache) for c in conditionings)):
        cached = [c.text_cache[name] for c in conditionings]
        if all(c.source is t and c.state == cached[0].state for c, t in zip(cached, texts, strict=True)):
            projected = _stacked([c.projected for c in cached]).select(rows)
            regrouped.text_cache[name] = TextCache(text, cached[0].state, projected)
    return regrouped, text


def _stacked(parts: Sequence[KeysValues]) -> KeysValues:
    """All rows; those with fewer tokens are padded, and say so."""
    parts = [part for part in parts if len(part.keys)] or parts[:1]
    longest = max(part.keys.shape[1] for part in parts)
    missing = [longest - part.keys.shape[1] for part in parts]
    keys, values = (
        torch.cat([F.pad(getattr(part, name), (0, 0, 0, m)) for part, m in zip(parts, missing, strict=True)])
        for name in ("keys", "values")
    )
    if not any(missing) and all(part.present is None for part in parts):
        return KeysValues(keys, values)
    marks = [part.present if part.present is not None else _all_present(part) for part in parts]
    return KeysValues(keys, values, torch.cat([F.pad(mark, (0, m)) for mark, m in zip(marks, missing, strict=True)]))


def _all_present(part: KeysValues) -> Tensor:
    return torch.ones(part.keys.shape[:2], dtype=torch.bool, device=part.keys.device)


def _text_keys_values(name: str, attn: Any, text: Tensor, subject: SubjectConditioning) -> KeysValues:
    if torch.is_grad_enabled():
        return _text_projected(attn, text)
    state = (_projection_state(attn.to_k), _projection_state(attn.to_v))
    cached = subject.text_cache.get(name)
    if cached is None or cached.source is not text or cached.state != state:
        cached = subject.text_cache[name] = TextCache(text, state, _text_projected(attn, text))
    return cached.projected


def _text_projected(attn: Any, text: Tensor) -> KeysValues:
    states = attn.norm_encoder_hidden_states(text) if attn.norm_cross else text
    return KeysValues(attn.to_k(states), attn.to_v(states))


def _projection_state(linear: nn.Module) -> tuple[Any, ...]:
    """What decides the output of `to_k` or `to_v`: its weights' versions and, under PEFT, the LoRA state."""
    versions = tuple((id(p), p.data_ptr(), None if p.is_inference() else p._version) for p in linear.parameters())
    scaling = tuple(sorted((str(k), float(v)) for k, v in getattr(linear, "scaling", {}).items()))
    adapters = tuple(getattr(linear, "active_adapters", ()))
    return (versions, scaling, adapters, getattr(linear, "disable_adapters", False), getattr(linear, "merged", False))


def _text_mask(attn: Attention, mask: Tensor | None, text: Tensor) -> Tensor | None:
    if mask is None:
        return None
    prepared = attn.prepare_attention_mask(mask, text.shape[1], text.shape[0])
    return prepared.view(text.shape[0], attn.heads, -1, prepared.shape[-1])


def _attend(query: Float[Tensor, "B heads X d"], kv: KeysValues, mask: Tensor | None = None) -> Tensor:
    key, value = split_heads(kv.keys, query.shape[1]), split_heads(kv.values, query.shape[1])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _copied(linear: Any) -> nn.Linear:
    base = getattr(linear, "base_layer", linear)  # under PEFT the frozen layer lies one deeper
    copy = nn.Linear(base.in_features, base.out_features, bias=False)
    copy.weight.data.copy_(base.weight.data)
    return copy
