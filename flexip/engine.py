"""All that inference needs, in one value."""

from dataclasses import dataclass
from typing import Any

from flexip.calibration import Calibration
from flexip.casting import Casting
from flexip.encoders import Encoders
from flexip.model import FlexIP
from flexip.references import ReferenceCache


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
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        side = int(self.pipe.unet.config.sample_size)
        return side, side
