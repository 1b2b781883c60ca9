"""The reader finds what features hold, and nothing that they do not."""

import torch

from flexip.pocket.identity import SHAPES
from flexip.pocket.oracle import IDENTITY
from flexip.pocket.probe import draw_crops, read_shares


def test_a_reader_finds_what_the_patches_hold_and_guesses_the_rest():
    known, held_out = draw_crops(400, 0, "train"), draw_crops(30, 0, "test")
    shape = {
        id(image): row
        for crops in (known, held_out)
        for image, row in zip(crops.images, crops.values()[:, 0], strict=True)
    }
    noise = torch.Generator().manual_seed(0)

    def encode(images):
        """Patches (B, 4, 16): one of them says the shape, wherever it is."""
        states = 0.3 * torch.randn(len(images), 4, 16, generator=noise)
        for row, image in enumerate(images):
            states[row, row % 4, : len(SHAPES)] = 2 * torch.eye(len(SHAPES))[shape[id(image)]]
        return states

    shares = read_shares(encode, known, held_out, steps=300)
    assert list(shares) == list(IDENTITY)
    assert shares["shape"] > 0.9
    assert shares["top"] < 0.35


def test_crops_are_the_same_every_time_and_mostly_show_what_they_say():
    first, again = (draw_crops(4, 5, "val") for _ in range(2))
    assert all((a == b).all() for a, b in zip(first.images, again.images, strict=True))
    assert torch.equal(first.values(), again.values())
    assert first.visible().float().mean() > 0.7
