"""A picture to paint into: what is kept of it goes along through the steps, and comes back unchanged.

A UNet that was not trained for it paints into a picture when, after each step, what is to be kept is put in the place
of what it drew there, with the noise of the next step (Avrahami et al. 2022, Blended Latent Diffusion, section 4.1).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

from flexip.diffusion import add_noise
from flexip.encoders import Encoders
from flexip.images import Rgb, resize


@dataclass(frozen=True)
class Canvas:
    """What is painted into, and where.

    Raises:
        ValueError: a mask or a strength out of bounds.
    """

    image: Rgb  # of the picture's aspect
    mask: Float[np.ndarray, "H W"]  # 1 where the picture is painted, 0 where the canvas stays; of the picture's aspect
    strength: float = 1.0  # share of the steps that are walked; below 1 the walk begins at the canvas, noised so far

    def __post_init__(self):
        check_mask(self.mask)
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength: {self.strength:g} must be above 0 and at most 1")


@dataclass(frozen=True)
class Ground:
    """The canvas of each row in the latents' space; a row without one is painted everywhere."""

    kept: Float[Tensor, "B C h w"]  # z_0 of the canvas
    painted: Float[Tensor, "B 1 h w"]  # 1 where the row is painted, 0 where the canvas stays

    def select(self, rows: Tensor) -> "Ground":
        """The given rows, in that order."""
        return Ground(self.kept[rows], self.painted[rows])

    def under(
        self, latents: Float[Tensor, "B C h w"], noise: Float[Tensor, "B C h w"], alpha_bar: Float[Tensor, " B"]
    ) -> Float[Tensor, "B C h w"]:
        """What was drawn where the row is painted, and the canvas at this noise level elsewhere."""
        return self.painted * latents + (1 - self.painted) * add_noise(self.kept, noise, alpha_bar)


def check_mask(mask: Float[np.ndarray, "..."] | None) -> None:
    """Raises ValueError for one that is no picture of values within 0..1."""
    if mask is not None and not (mask.ndim == 2 and 0 <= mask.min() <= mask.max() <= 1):
        raise ValueError(f"mask: shape {mask.shape}; needs height and width, and values within 0..1")


def prepare_ground(
    encoders: Encoders, canvas: Canvas | None, size: tuple[int, int], shape: tuple[int, int, int]
) -> Ground:
    """One row of latents of this shape (C, h, w) for a picture of this size (H, W) [px].

    A latent pixel is painted when any of its pixels is.
    """
    placement = {"device": encoders.device, "dtype": encoders.dtype}
    if canvas is None:
        return Ground(torch.zeros(1, *shape, **placement), torch.ones(1, 1, *shape[1:], **placement))
    mean, _ = encoders.encode_targets([canvas.image], size).chunk(2, dim=1)
    painted = adaptive_max_pool2d(torch.as_tensor(canvas.mask, dtype=torch.float32)[None, None], shape[1:]) > 0
    return Ground(encoders.vae.config.scaling_factor * mean, painted.to(**placement))


def paste(picture: Rgb, canvas: Canvas | None) -> Rgb:
    """The picture where it is painted, the canvas to the bit where it stays."""
    if canvas is None:
        return picture
    height, width = picture.shape[:2]
    mask = torch.as_tensor(canvas.mask, dtype=torch.float32)[None, None]
    painted = interpolate(mask, (height, width), mode="bilinear", antialias=True)[0, 0, :, :, None].numpy()
    ground = resize(canvas.image, (height, width))
    return (ground + painted * (picture.astype(np.float32) - ground)).round().clip(0, 255).astype(np.uint8)
