"""Encoders that score: what they do to pixels, their ids, the cache, and agreement with torchmetrics."""

from typing import Any, cast

import numpy as np
import pytest
import tiny_models
import torch
from transformers import CLIPImageProcessor

from evaluation import metrics
from evaluation.cache import VectorCache
from evaluation.eyes import EyeError, clip_eye, dino_eye
from evaluation.protocol import Protocol, ProtocolError, only_protocol
from evaluation.quality import IQA_SIDE, aesthetic_eye, iqa_eye
from flexip.images import resize
from flexip.pocket import weights_path

IMAGES = list(np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def clip():
    return clip_eye("pocket")


def test_clip_sees_and_reads_in_one_space_and_does_not_care_for_company(clip, pocket_encoders):
    assert clip.read is not None
    squares = clip.see(IMAGES)
    np.testing.assert_allclose(clip.see(IMAGES[1:2])[0], squares[1], atol=1e-5)
    np.testing.assert_allclose(squares, pocket_encoders.clip_image_embeddings(IMAGES).numpy(), atol=1e-6)
    words = clip.read(["a creature in the snow"])
    np.testing.assert_allclose(words, pocket_encoders.clip_text_embeddings(["a creature in the snow"]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(squares, axis=1), 1, atol=1e-5)


def test_the_longer_side_is_cropped_as_published(clip):
    wide = np.concatenate([np.zeros((40, 10, 3), np.uint8), IMAGES[0], np.zeros((40, 10, 3), np.uint8)], axis=1)
    np.testing.assert_allclose(clip.see([wide])[0], clip.see([IMAGES[0]])[0], atol=0.05)
    assert "centre crop" in clip.resize


def test_pocket_dino_is_the_mean_of_unit_patches(pocket_encoders):
    patches = pocket_encoders.encode_patches(IMAGES).numpy()
    np.testing.assert_allclose(dino_eye("pocket").see(IMAGES), metrics.mean_patch(patches), atol=1e-5)


def test_dino_takes_the_cls_token_of_any_timm_transformer_from_a_file(tmp_path):
    import timm

    torch.manual_seed(0)
    model: Any = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    eye = dino_eye(f"vit_tiny_patch16_224.augreg_in21k@{tmp_path / 'weights.pth'}")
    square = resize(IMAGES[0], (256, 256))[16:240, 16:240]
    pixels = (torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5  # this model's statistics
    with torch.inference_mode():
        wanted = model.forward_features(pixels)[:, 0].numpy()
    np.testing.assert_allclose(eye.see(IMAGES[:1]), wanted, atol=1e-4)
    assert eye.name == "vit_tiny_patch16_224.augreg_in21k"
    wide = np.concatenate([IMAGES[0], IMAGES[0]], axis=1)
    assert eye.patches is not None
    assert eye.patches([wide, IMAGES[0]]).shape == (2, 14 * 14, 192)  # all of it, squeezed; no [CLS]


def test_an_eye_without_weights_is_one_line():
    with pytest.raises(EyeError, match=r"CLIP 'ViT-B-32/nowhere.bin': cannot be loaded"):
        clip_eye("ViT-B-32/nowhere.bin")
    with pytest.raises(EyeError, match="DINO 'no_such_model'"):
        dino_eye("no_such_model")


def test_clip_iqa_of_torchmetrics_equals_the_formula(monkeypatch):
    """The published weights cannot be downloaded here: the real code runs on random ones of the same classes."""
    from piq.feature_extractors import clip as piq_clip
    from transformers import CLIPProcessor, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(weights_path() / "tokenizer")
    model = piq_clip.CLIP(16, 32, (1, 1, 1, 1), 16, 0, 77, len(tokenizer), 16, 2, 1).eval()
    torch.nn.init.normal_(model.text_projection)
    processor = CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer)
    monkeypatch.setattr(piq_clip, "load", lambda: model)
    monkeypatch.setattr(CLIPProcessor, "from_pretrained", lambda _: processor)
    eye = iqa_eye()
    scores = eye.see(IMAGES)[:, 0]
    large = np.stack([resize(image, (IQA_SIDE, IQA_SIDE)) for image in IMAGES]).astype(np.float32) / 255
    statistics = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    pixels = torch.from_numpy((large - statistics[0]) / statistics[1]).permute(0, 3, 1, 2).float()
    tokens = torch.zeros(2, 77, dtype=torch.long)
    for row, words in zip(tokens, tokenizer(["Good photo.", "Bad photo."])["input_ids"], strict=True):
        row[: len(words)] = torch.tensor(words)
    with torch.inference_mode():
        seen, read = model.encode_image(pixels, pos_embedding=False).numpy(), model.encode_text(tokens).numpy()
    np.testing.assert_allclose(scores, metrics.clip_iqa(seen, *read), atol=1e-4)
    assert eye.see(IMAGES[:1])[0, 0] == pytest.approx(scores[0], abs=1e-5)


def test_clip_t_is_what_transformers_scales_to_its_logits(tmp_path):
    from transformers import CLIPModel, CLIPProcessor

    folder = str(tiny_models.clip(tmp_path / "clip"))
    model, processor = CLIPModel.from_pretrained(folder).eval(), cast(Any, CLIPProcessor.from_pretrained(folder))
    words = ["a creature", "the snow", "a creature in the snow"]
    with torch.no_grad():
        seen = model(**processor(images=IMAGES, text=words, return_tensors="pt", padding="longest"))
    theirs = (seen.logits_per_image / model.logit_scale.detach().exp()).diagonal().numpy()
    ours = metrics.cosine(seen.image_embeds.numpy(), seen.text_embeds.numpy())
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_an_aesthetic_head_of_another_width_is_refused(clip, tmp_path):
    torch.save({"weight": torch.ones(1, 5), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(EyeError, match="takes 5 values"):
        aesthetic_eye(tmp_path / "head.pth", clip).see(IMAGES[:1])
    width = clip.see(IMAGES[:1]).shape[1]
    torch.save({"weight": torch.ones(1, width), "bias": torch.ones(1)}, tmp_path / "head.pth")
    eye = aesthetic_eye(tmp_path / "head.pth", clip)
    np.testing.assert_allclose(eye.see(IMAGES)[:, 0], 1 + clip.see(IMAGES).sum(axis=1), atol=1e-4)


def test_a_cache_encodes_each_content_once_and_survives(tmp_path):
    asked: list[list[int]] = []

    def make(indices):
        asked.append(list(indices))
        return np.array([[float(i), 1.0] for i in indices])

    cache = VectorCache(tmp_path / "deep" / "vectors.sqlite")
    np.testing.assert_array_equal(cache.vectors("eye", ["a", "b", "a"], make, batch=1)[:, 0], [0, 1, 0])
    assert asked == [[0], [1]]
    again = VectorCache(tmp_path / "deep" / "vectors.sqlite")
    np.testing.assert_array_equal(again.vectors("eye", ["c", "b", "a"], make)[:, 0], [0, 1, 0])
    assert asked[2:] == [[0]]  # c alone
    again.vectors("other eye", ["a"], make)
    assert asked[3:] == [[0]]


def test_numbers_of_different_protocols_are_refused_in_one_table():
    one = Protocol("CLIP-I", "ViT-B-32 openai", "00ff", "bicubic", "all")
    assert only_protocol([one, Protocol("CLIP-I", "ViT-B-32 openai", "00ff", "bicubic", "all")]) == one
    assert one.column == "CLIP-I (ViT-B-32 openai)"
    with pytest.raises(ProtocolError, match=r"references differ: '\w+' against '\w+'"):
        only_protocol([one, Protocol("CLIP-I", "ViT-B-32 openai", "00ff", "bicubic", "shown")])
