import dataclasses

import numpy as np
import torch
from PIL import Image

from flexip.encoders import fingerprint, load_encoders


def test_shapes_are_those_of_the_features(pocket_encoders, reference):
    cls, patches = pocket_encoders.encode_references([reference])
    text, moments = pocket_encoders.encode_text(["a creature"]), pocket_encoders.encode_targets([reference])
    hidden = pocket_encoders.encode_hidden([reference])
    found = {"clip": cls, "dino": patches, "hidden": hidden, "text": text, "vae": moments}
    assert {family: tuple(value.shape[1:]) for family, value in found.items()} == pocket_encoders.shapes


def test_rows_do_not_depend_on_their_batch(pocket_encoders, reference):
    other = reference[::-1].copy()
    together = pocket_encoders.encode_references([reference, other])
    alone = pocket_encoders.encode_references([other])
    for batch, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batch[1], single[0], atol=1e-5, rtol=1e-5)


def test_fingerprints_are_stable_and_change_with_a_weight_or_the_preprocessing(pocket_encoders):
    assert load_encoders().fingerprints == pocket_encoders.fingerprints
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}
    moved = {**weights, "b": torch.tensor([0.0, 1.0])}
    marks = {
        fingerprint(weights.items(), "64 px"),
        fingerprint(moved.items(), "64 px"),
        fingerprint(weights.items(), "224 px"),
        fingerprint({**weights, "a": weights["a"].reshape(3, 2)}.items(), "64 px"),
    }
    assert len(marks) == 4
    assert fingerprint(dict(reversed(weights.items())).items(), "64 px") in marks


def test_clip_pixels_are_the_librarys_own(pocket_encoders, reference):
    ours = pocket_encoders.clip.encode_image(pocket_encoders.clip_preprocess(Image.fromarray(reference))[None])
    torch.testing.assert_close(pocket_encoders.encode_references([reference])[0], ours, atol=1e-6, rtol=1e-6)


def test_hidden_states_are_the_last_block_s_input(pocket_encoders, reference):
    blocks, seen = pocket_encoders.clip.visual.transformer.resblocks, []
    hook = blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    cls, _ = pocket_encoders.encode_references([reference])
    hook.remove()
    hidden = pocket_encoders.encode_hidden([reference])
    torch.testing.assert_close(hidden, seen[0], atol=1e-5, rtol=1e-5)
    instead = dataclasses.replace(pocket_encoders, detail="hidden").encode_references([reference])
    assert torch.equal(instead[0], cls)
    assert torch.equal(instead[1], hidden)


def test_dino_pixels_are_the_librarys_own(pocket_encoders, reference):
    pixels = pocket_encoders.dino_processor(Image.fromarray(reference), return_tensors="pt")["pixel_values"]
    theirs = pocket_encoders.dino(pixel_values=pixels).last_hidden_state[:, 1:]
    torch.testing.assert_close(pocket_encoders.encode_references([reference])[1], theirs, atol=1e-4, rtol=1e-4)


def test_a_wide_reference_is_padded_not_cropped(pocket_encoders, reference):
    wide = reference[16:48]
    padded = np.full((64, 64, 3), 255, np.uint8)
    padded[16:48] = wide
    for ours, theirs in zip(
        pocket_encoders.encode_references([wide]), pocket_encoders.encode_references([padded]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_prompt_longer_than_the_text_length_is_truncated(pocket_encoders):
    long, longer = "creature " * 100, "creature " * 200
    torch.testing.assert_close(*(pocket_encoders.encode_text([text]) for text in (long, longer)))
