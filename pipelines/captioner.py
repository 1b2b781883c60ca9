"""Captions by a model of transformers: any captioner of its image-text-to-text kind (BLIP, Florence-2, GIT ...)."""

from collections.abc import Callable, Sequence

from flexip.images import Rgb
from pipelines import pretrained
from pipelines.settings import CaptionSettings

Captioner = Callable[[Sequence[Rgb]], list[str]]


def open_captioner(settings: CaptionSettings, device: str) -> Captioner:
    """A function from pictures to captions, the most likely words each; a caption may be empty.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    loaded = pretrained.load("captions.model", settings.model, "AutoModelForImageTextToText", device)

    def describe(images: Sequence[Rgb]) -> list[str]:
        texts = list[str]()
        for start in range(0, len(images), settings.batch_size):
            chunk = list(images[start : start + settings.batch_size])
            asked = {"text": [settings.prompt] * len(chunk)} if settings.prompt else {}
            inputs = loaded.placed(loaded.processor(images=chunk, **asked, return_tensors="pt"))
            tokens = loaded.model.generate(**inputs, max_new_tokens=settings.max_tokens, do_sample=False)
            texts += loaded.processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    return describe
