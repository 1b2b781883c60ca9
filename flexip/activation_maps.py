"""Where each face acts in a picture, seen: the mean of w over layers and steps, as pictures."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from flexip.images import Rgb, resize


@dataclass
class ActivationMaps:
    """Pass it as `observe` of `flexip.saa.Faces`; it sums what it is told, at the latents' size."""

    size: tuple[int, int]  # height and width of the latents
    _sums: list[Tensor] = field(default_factory=list)
    _count: int = 0

    def __call__(self, layer: str, w: Float[Tensor, "F X"]) -> None:
        height = round((w.shape[1] * self.size[0] / self.size[1]) ** 0.5)
        grid = w.unflatten(1, (height, -1))[:, None].float()
        seen = interpolate(grid, self.size, mode="bilinear")[:, 0]
        self._sums = [self._sums[0] + seen] if self._sums else [seen]
        self._count += 1

    def means(self) -> Float[Tensor, "F h w"]:
        """The mean of w at each latent pixel, one map a face. Raises ValueError when nothing was seen."""
        if not self._sums:
            raise ValueError("activation maps: no layer with faces was seen; draw a picture with people first")
        return self._sums[0] / self._count

    def pictures(self, size: tuple[int, int]) -> list[Rgb]:
        """One heat map a face, dark blue for the least of its values and dark red for the most, at (height, width)."""
        return [heat(one, size) for one in self.means().cpu()]


def heat(values: Float[Tensor, "h w"], size: tuple[int, int]) -> Rgb:
    """A map as a picture."""
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-6)
    grey = (255 * scaled).round().to(torch.uint8).numpy()
    coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return resize(np.ascontiguousarray(coloured), size)


def over(picture: Rgb, heat_map: Rgb, opacity: float = 0.5) -> Rgb:
    """A heat map laid over the picture that it belongs to."""
    return cv2.addWeighted(picture, 1 - opacity, resize(heat_map, picture.shape[:2]), opacity, 0)
