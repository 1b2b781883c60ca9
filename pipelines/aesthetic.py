"""Scores of pictures for the filters, by LAION's aesthetic heads on the CLIP that the settings name."""

from collections.abc import Callable, Sequence

from flexip.aesthetic import HeadError, load_head
from flexip.images import Rgb
from pipelines import pretrained
from pipelines.pretrained import ModelError
from pipelines.settings import FilterSettings

Scorer = Callable[[Sequence[Rgb]], list[float]]
BATCH = 8


def open_scorer(settings: FilterSettings, device: str) -> Scorer:
    """A function from pictures to scores, about 1 ugly .. 10 beautiful.

    Raises:
        ModelError: head or CLIP cannot be loaded, or do not fit each other.
    """
    try:
        head = load_head(settings.aesthetic_head)
    except HeadError as error:
        raise ModelError(f"filters.aesthetic_head = {error}") from error
    field, name = "filters.aesthetic_clip", settings.aesthetic_clip
    loaded = pretrained.load(field, name, "CLIPVisionModelWithProjection", device, "CLIPImageProcessor")
    width = loaded.model.config.projection_dim
    if width != len(head.weight):
        raise ModelError(
            f"{field} = {name!r}: embeddings of {width} values; filters.aesthetic_head = {settings.aesthetic_head!r} "
            f"takes {len(head.weight)} (LAION's: 768 of ViT-L/14, 512 of ViT-B/32)"
        )

    def score(images: Sequence[Rgb]) -> list[float]:
        scores = list[float]()
        for start in range(0, len(images), BATCH):
            inputs = loaded.processor(images=list(images[start : start + BATCH]), return_tensors="pt")
            embeddings = loaded(inputs).image_embeds.cpu().numpy()
            scores += head(embeddings).tolist()
        return scores

    return score
