"""Eyes whose vector is one number: how good or beautiful a picture is, without any reference."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.eyes import Eye, EyeError, Vectors
from flexip.aesthetic import load_head
from flexip.encoders import fingerprint
from flexip.images import Rgb, resize

IQA_SIDE = 512  # [px] CLIP-IQA depends on the resolution, so that every picture is brought to this one


def iqa_eye(device: str = "cpu") -> Eye:
    """CLIP-IQA by torchmetrics, as published: RN50 without positional embedding, "Good photo." against "Bad photo.".

    torchmetrics' other models are another metric, and pyiqa's `clipiqa` averages three pairs of prompts.

    Raises:
        EyeError: the library or the weights are not there.
    """
    try:
        from torchmetrics.multimodal import CLIPImageQualityAssessment

        metric: Any = CLIPImageQualityAssessment("clip_iqa", data_range=255.0, prompts=("quality",)).to(device)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EyeError(f"CLIP-IQA: cannot be loaded ({reason}); pip install 'flexip[iqa]' and its weights") from error

    def see(images: Sequence[Rgb]) -> Vectors:
        pixels = np.stack([resize(image, (IQA_SIDE, IQA_SIDE)) for image in images])
        metric.reset()
        with torch.inference_mode():
            scores = metric(torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(device))
        return scores.reshape(-1, 1).float().cpu().numpy()

    weights = fingerprint(metric.model.state_dict().items(), "clip-iqa")
    return Eye("RN50 without positions", weights, f"{IQA_SIDE} x {IQA_SIDE}, bicubic, antialiased", see)


def aesthetic_eye(head: Path | str, clip: Eye) -> Eye:
    """LAION's aesthetic score on the embeddings of a CLIP; the head's width says which (768: ViT-L/14).

    Raises:
        flexip.aesthetic.HeadError: no such head. EyeError: the CLIP is of another width.
    """
    predictor = load_head(head)
    version = "V2" if "linearMSE" in Path(head).name else "V1"
    weights = f"{hashlib.sha256(Path(head).read_bytes()).hexdigest()[:16]} on {clip.weights}"

    def see(images: Sequence[Rgb]) -> Vectors:
        embeddings = clip.see(images)
        if embeddings.shape[1] != len(predictor.weight):
            raise EyeError(
                f"aesthetic head {str(head)!r}: takes {len(predictor.weight)} values, {clip.name} gives "
                f"{embeddings.shape[1]}; LAION's heads are for OpenAI's ViT-L/14 (768) and ViT-B/32 (512)"
            )
        return predictor(embeddings.astype(np.float64))[:, None]

    return Eye(f"{version} on {clip.name}", weights, clip.resize, see)
