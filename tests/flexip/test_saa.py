"""Semantic-Activated Attention against its equation, and people kept apart."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import sd15
from flexip.activation_maps import ActivationMaps, over
from flexip.adapters import AdapterConfig
from flexip.attention import KEYWORD, KeysValues, cross_attention_layers
from flexip.dynamicid import DynamicID
from flexip.face_encoder import FaceConfig
from flexip.gate import Gate
from flexip.model import FlexIP
from flexip.people import Person, cast_people
from flexip.saa import Faces, alone, attend, guide_layout, layout_guidance, owned, regroup_faces, within

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
NAME = "layer"
CONFIG = FaceConfig(10, 20, 32, tokens=2, depth=1, heads=2, dim_head=16, lora_rank=4)


@pytest.fixture
def model(tiny_unet) -> DynamicID:
    torch.manual_seed(1)
    return DynamicID(tiny_unet, CONFIG)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(2))


def faces_of(projected: KeysValues, rows: list[int], boxes: list[Any] | None = None, **options: Any) -> Faces:
    """Faces of one layer of 4 x 4 positions, all in full strength."""
    count = len(rows)
    nan = (float("nan"),) * 4
    return Faces(
        {NAME: projected},
        torch.ones(projected.keys.shape[:2]),
        torch.tensor(rows),
        torch.tensor(sorted(set(rows))),
        torch.tensor([box or nan for box in boxes or [None] * count]),
        torch.ones(count),
        torch.zeros(count),
        (4, 4),
        **options,
    )


def drawn(rows: int, faces: int, seed: int = 0) -> tuple[Tensor, KeysValues]:
    """A query (rows, 2 heads, 16 positions, 3) and keys and values of 4 tokens a face."""
    g = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(faces, 4, 6, generator=g) for _ in range(2))
    return torch.randn(rows, 2, 16, 3, generator=g), KeysValues(keys, values)


def test_one_face_is_added_by_the_equation_read_directly():
    query, kv = drawn(1, 1)
    z = torch.randn(query.shape, generator=torch.Generator().manual_seed(9))
    found = faces_of(kv, [0]).add(z, query, NAME)
    q = query[0].transpose(0, 1).reshape(16, 6)
    k, v = kv.keys[0], kv.values[0]
    raw = (q @ k.T @ torch.ones(4, 1))[:, 0]
    w = (raw - raw.min()) / (raw.max() - raw.min())
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        attention = torch.softmax(q[:, part] @ k[:, part].T / 3**0.5, dim=1) @ v[:, part]
        torch.testing.assert_close(found[0, head], z[0, head] + w[:, None] * attention, atol=1e-5, rtol=1e-5)


def test_a_threshold_and_no_activation():
    query, kv = drawn(1, 1)
    seen: dict[str, Tensor] = {}
    for label, options in {"cut": {"threshold": 0.5}, "off": {"activated": False}, "whole": {}}.items():
        faces_of(kv, [0], observe=lambda name, w, label=label: seen.update({label: w}), **options).add(
            query, query, NAME
        )
    assert torch.equal(seen["cut"], torch.where(seen["whole"] < 0.5, 0.0, seen["whole"]))
    assert torch.equal(seen["off"], torch.ones(1, 16))
    assert seen["whole"].min() == 0
    assert seen["whole"].max() == pytest.approx(1)


def test_shares_mix_identities_and_end_at_each_alone():
    query, kv = drawn(1, 1)
    first = KeysValues(kv.keys[:, :2], kv.values[:, :2])
    both = attend(query, kv, torch.ones(1, 4))
    torch.testing.assert_close(
        attend(query, kv, torch.tensor([[1.0, 1.0, 0.0, 0.0]])), attend(query, first, torch.ones(1, 2))
    )
    nearly = attend(query, kv, torch.tensor([[1.0, 1.0, 1e-6, 1e-6]]))
    torch.testing.assert_close(nearly, attend(query, first, torch.ones(1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(attend(query, kv, torch.full((1, 4), 0.5)), both)


def test_each_position_belongs_to_who_activates_it_most():
    w = torch.tensor([[0.9, 0.2, 0.5, 0.0], [0.1, 0.8, 0.5, 0.0], [0.3, 0.3, 0.3, 0.3]])
    shares = owned(w, torch.zeros(3, 4, dtype=torch.bool), torch.tensor([0, 0, 1]), 2)
    assert torch.equal(shares, torch.tensor([[1, 0, 0.5, 0.5], [0, 1, 0.5, 0.5], [1, 1, 1, 1]]))


def test_a_box_keeps_all_but_its_owner_out():
    boxes = torch.tensor([LEFT, RIGHT, (float("nan"),) * 4])
    inside = within(boxes, (4, 4), 16)
    assert inside.reshape(3, 4, 4)[:, 0].tolist() == [
        [True, True, False, False],
        [False, False, True, True],
        [False] * 4,
    ]
    shares = owned(torch.ones(3, 16), inside, torch.zeros(3, dtype=torch.long), 1)
    assert torch.equal(shares, inside.float())
    wide = within(torch.tensor([LEFT]), (2, 8), 16)  # of 2 x 8 positions
    assert wide.reshape(2, 8)[0].tolist() == [True] * 4 + [False] * 4


def test_inside_a_box_nothing_comes_from_the_others():
    query, kv = drawn(1, 2)
    keys, values = (part.clone().requires_grad_() for part in (kv.keys, kv.values))
    faces = faces_of(KeysValues(keys, values), [0, 0], [LEFT, RIGHT]).at(2.0)
    out = faces.add(torch.zeros_like(query), query, NAME).reshape(2, 4, 4, 3)
    for own, region in enumerate((out[:, :, :2], out[:, :, 2:])):
        grads = torch.autograd.grad(region.square().sum(), (keys, values), retain_graph=True)
        for grad in grads:
            assert grad[own].abs().max() > 1e-4
            assert not grad[1 - own].any()


def test_layout_guidance_lifts_the_box_for_the_first_steps():
    w, inside = torch.full((2, 2), 0.6), torch.tensor([[True, False], [False, False]])
    assert guide_layout(w, inside, torch.tensor([2.0, 0.0])).tolist() == [
        pytest.approx([2.6, 0.2]),
        pytest.approx([0.6, 0.6]),
    ]
    assert [layout_guidance(step, 50) for step in (0, 11, 12, 49)] == [2, 2, 0, 0]
    _, kv = drawn(1, 3)
    faces = faces_of(kv, [0, 1, 1], [LEFT, RIGHT, None])
    assert faces.at(2.0).guidance.tolist() == [2, 2, 0]  # who has no box is not guided
    assert faces.at(torch.tensor([0.5, 1.5])).guidance.tolist() == [0.5, 1.5, 0]


def predict(model: DynamicID, people: Any, **options: Any) -> Tensor:
    """The UNet's prediction for as many rows as there are lists of people; noise and text are each row's own."""
    g = torch.Generator().manual_seed(4)
    noisy, text = torch.randn(4, 4, 8, 8, generator=g)[: len(people)], torch.randn(4, 5, 32, generator=g)[: len(people)]
    faces = model.faces(people, (8, 8), **options)
    subject = {KEYWORD: alone(faces)}
    with torch.no_grad():
        return model.unet(noisy, 500, encoder_hidden_states=text, cross_attention_kwargs=subject, return_dict=False)[0]


def stir(model: DynamicID) -> None:
    """LoRA that has learnt something."""
    assert model.lora is not None
    g = torch.Generator().manual_seed(3)
    for parameter in model.lora.parameters():
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=g))


def test_rows_without_faces_do_not_know_of_their_neighbours_to_the_bit(model, tokens):
    stir(model)
    one, two = cast_people(tokens[:2])
    without, beside = predict(model, [(), (), ()]), predict(model, [(), (one, two), ()])
    assert torch.equal(without[[0, 2]], beside[[0, 2]])
    assert (without[1] - beside[1]).abs().max() > 1e-3
    together, apart = predict(model, [(one,), (two,)]), predict(model, [(one,), ()])
    torch.testing.assert_close(together[0], apart[0], atol=1e-5, rtol=0)


def test_without_people_and_before_training_the_base_model_answers(model, tokens):
    g = torch.Generator().manual_seed(4)
    noisy, text = torch.randn(4, 4, 8, 8, generator=g)[:1], torch.randn(4, 5, 32, generator=g)[:1]
    with torch.no_grad():
        base = model.unet(noisy, 500, encoder_hidden_states=text, return_dict=False)[0]
    silent = replace(cast_people(tokens[:1])[0], strength=0.0)
    assert torch.equal(predict(model, [()]), base)
    torch.testing.assert_close(predict(model, [(silent,)]), base, atol=1e-6, rtol=0)  # LoRA begins with no change


def test_lora_acts_in_the_rows_that_have_people_alone(model, tokens):
    silent = replace(cast_people(tokens[:1])[0], strength=0.0)
    before = predict(model, [(silent,), ()])
    stir(model)
    after = predict(model, [(silent,), ()])
    assert (after[0] - before[0]).abs().max() > 1e-3
    assert torch.equal(after[1], before[1])


@pytest.mark.parametrize("boxes", [None, [LEFT, RIGHT, (0.3, 0.2, 0.7, 0.6)]])
def test_the_order_of_people_and_their_boxes_changes_nothing(model, tokens, boxes):
    people = cast_people(tokens, boxes)
    given = predict(model, [people])
    for order in ((2, 0, 1), (1, 0, 2)):
        torch.testing.assert_close(predict(model, [[people[i] for i in order]]), given, atol=1e-6, rtol=0)
    if boxes:
        other = cast_people(tokens, [boxes[1], boxes[0], boxes[2]])
        assert (predict(model, [other]) - given).abs().max() > 1e-4


def test_who_has_more_tokens_is_padded_to_no_effect(model, tokens):
    mixed = Person(tokens[:2], shares=(0.3, 0.7))
    single = Person(tokens[2:])
    both = predict(model, [(mixed,), (single,)])
    torch.testing.assert_close(both[1], predict(model, [(), (single,)])[1], atol=1e-5, rtol=0)
    first = predict(model, [(Person(tokens[:2], shares=(1.0, 0.0)),)])
    torch.testing.assert_close(first, predict(model, [(Person(tokens[:1]),)]), atol=1e-5, rtol=0)


def test_faces_of_several_batches_regroup_to_what_they_would_have_been(model, tokens):
    one, two = cast_people(tokens[:2], [LEFT, RIGHT])
    mixed = Person(tokens[1:], shares=(0.3, 0.7), strength=0.5)
    first, second = model.faces([(), (one, two)], (8, 8)), model.faces([(mixed,), (one,)], (8, 8))
    found = regroup_faces([(first.at(2.0), 2), (second, 2)], [2, 0, 1])
    assert found is not None
    right = model.faces([(mixed,), (), (one, two)], (8, 8)).at(torch.tensor([0.0, 0.0, 2.0]))
    for name in ("shares", "rows", "peopled", "boxes", "strength", "guidance"):
        torch.testing.assert_close(getattr(found, name), getattr(right, name), equal_nan=True)
    for name, projected in right.projected.items():
        torch.testing.assert_close(found.projected[name].values, projected.values)


def test_people_act_beside_a_subject_of_flexip_and_both_add_up(model, tokens):
    """Z - Z_T of the layer that comes first, where nothing has acted before; before training LoRA changes nothing."""
    g = torch.Generator().manual_seed(5)
    flexip = FlexIP(model.unet, AdapterConfig(32, 24, 20, queries=4, cls_tokens=2, depth=1, heads=2, dim_head=16))
    noisy, text = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 5, 32, generator=g)
    cls, patches = torch.randn(2, 24, generator=g), torch.randn(2, 9, 20, generator=g)
    subject = flexip.conditioning(flexip.subject_tokens(cls, patches, text), Gate.dial([0.7, 0.3]))
    faces = model.faces([(), cast_people(tokens[:2])], (8, 8))
    nobody = model.faces([(), ()], (8, 8))
    seen: list[Tensor] = []
    layers: dict[str, Any] = dict(cross_attention_layers(model.unet))
    hook = layers[min(layers)].to_out[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for conditioning in (alone(nobody), subject, alone(faces), replace(subject, companion=faces)):
        with torch.no_grad():
            model.unet(noisy, 500, encoder_hidden_states=text, cross_attention_kwargs={KEYWORD: conditioning})
    hook.remove()
    base, gated, peopled, both = seen
    assert (gated - base).abs().amax(dim=(1, 2)).min() > 1e-3
    assert torch.equal(peopled[0], base[0])
    assert torch.equal(both[0], gated[0])
    assert (peopled[1] - base[1]).abs().max() > 1e-3
    torch.testing.assert_close(both - base, (gated - base) + (peopled - base), atol=1e-5, rtol=1e-4)


def test_activation_maps_come_back_as_pictures(model, tokens):
    maps = ActivationMaps((8, 8))
    predict(model, [cast_people(tokens[:2], [LEFT, RIGHT])], observe=maps)
    means = maps.means()
    assert means.shape == (2, 8, 8)
    assert not means[0, :, 6:].any()  # nothing of the left person at the right edge
    assert means[0, :, :2].mean() > 0.1
    pictures = maps.pictures((32, 48))
    assert [picture.shape for picture in pictures] == [(32, 48, 3)] * 2
    assert over(np.zeros((16, 16, 3), np.uint8), pictures[0]).shape == (16, 16, 3)
    with pytest.raises(ValueError, match="no layer with faces"):
        ActivationMaps((8, 8)).pictures((8, 8))


def test_every_cross_attention_layer_has_its_faces_and_every_layer_its_lora(model, tokens):
    faces = model.faces([cast_people(tokens[:1])], (8, 8))
    assert [*faces.projected] == [name for name, _ in cross_attention_layers(model.unet)]
    assert model.lora is not None
    assert len(model.lora) == 2 * len(faces.projected)


def test_what_is_wrong_with_people_is_told(tokens):
    everybody = tokens[:1].expand(6, -1, -1)
    with pytest.raises(ValueError, match="subjects: 6 people in one picture; at most 5"):
        cast_people(everybody)
    with pytest.raises(ValueError, match="boxes: 1 for 2 people; give one for each"):
        cast_people(everybody[:2], [LEFT])
    for box, fault in {
        (0.0, 0.0, 1.2, 1.0): r"within 0\.\.1",
        (-0.1, 0.0, 0.5, 1.0): r"within 0\.\.1",
        (0.5, 0.0, 0.5, 1.0): "no area",
        (0.0, 0.0, float("nan"), 1.0): r"within 0\.\.1",
    }.items():
        with pytest.raises(ValueError, match=fault):
            cast_people(everybody[:1], [box])
    with pytest.raises(ValueError, match="shares: 1 for 2 identities"):
        Person(tokens[:2])
    with pytest.raises(ValueError, match="not all 0"):
        Person(tokens[:2], shares=(0.0, 0.0))
    with pytest.raises(ValueError, match="strength: -1"):
        Person(tokens[:1], strength=-1.0)


def test_at_full_size_it_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = DynamicID(sd15.unet(), FaceConfig())
    names = model.trainable()
    added = sum(p.numel() for name, p in names.items() if not name.startswith("encoder."))
    assert added / 1e6 == pytest.approx(44.7, abs=0.05)
    assert sum(p.numel() for p in names.values()) / 1e6 == pytest.approx(44.7 + 33.6, abs=0.2)
