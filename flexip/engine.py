"""All that inference needs, in one value."""

from dataclasses import dataclass
from typing import Any

from flexip.calibration import Calibration
from flexip.casting import Casting
from flexip.encoders import Encoders
from flexip.model import FlexIP
from flexip.references import ReferenceCache
from flexip.request import Request


@dataclass(frozen=True)
class Engine:
    """A trained model with the base pipeline and the encoders it was trained on."""

    model: FlexIP
    encoders: Encoders
    pipe: Any  # diffusers StableDiffusionPipeline, attached
    digest: str = ""  # SHA-256 of the adapters' file, hex; empty for a model that was never saved
    calibration: Calibration | None = None  # what its dial means, where that was measured
    references: ReferenceCache | None = None  # features that are kept from one request to the next
    casting: Casting | None = None  # DynamicID on the same base model, for requests with people

    @property
    def unit(self) -> int:
        """What the sides of a picture are multiples of [px]: the VAE and the UNet halve them so often."""
        return self._factor * 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)

    def picture_size(self, request: Request) -> tuple[int, int]:
        """Height and width of a request's picture [px].

        Raises:
            ValueError: a side that this model cannot draw.
        """
        height, width = request.size or [self._factor * int(self.pipe.unet.config.sample_size)] * 2
        if height % self.unit or width % self.unit:
            nearest = [max(1, round(side / self.unit)) * self.unit for side in (height, width)]
            raise ValueError(
                f"size: {height} x {width} must be multiples of {self.unit}; {nearest[0]} x {nearest[1]} would be"
            )
        return height, width

    def latent_shape(self, request: Request) -> tuple[int, int, int]:
        """Channels, height and width of a request's latents. Raises what `picture_size` raises."""
        height, width = self.picture_size(request)
        return self.pipe.unet.config.in_channels, height // self._factor, width // self._factor

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
