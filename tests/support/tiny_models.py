"""Random models of a few thousand weights, in the very classes of the real ones; most are saved to folders."""

from pathlib import Path
from typing import Any, cast

import torch


def unet():
    """A UNet with the shape of SD1.5's: cross- and self-attention at two resolutions, width 32."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def paper(folder: Path):
    """The paper's models by `benchmarks.sd15`, narrow, with its vocabulary and preprocessing; pictures of 64 px."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, Dinov2Config, Dinov2Model

    from benchmarks import sd15

    torch.manual_seed(0)
    width: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
    }
    tower = {"width": 32, "layers": 2}
    clip = {
        "embed_dim": 16,
        "vision_cfg": {**tower, "image_size": sd15.LOOK, "head_width": 16, "patch_size": 56},
        "text_cfg": {**tower, "heads": 2, "context_length": 77, "vocab_size": 49408},
    }
    builders = sd15.Builders(
        unet=unet,
        vae=lambda: AutoencoderKL(norm_num_groups=4, **blocks),
        text_encoder=lambda: CLIPTextModel(CLIPTextConfig(intermediate_size=64, **width)),
        clip_config=lambda: clip,
        dino=lambda: Dinov2Model(Dinov2Config(image_size=sd15.LOOK, patch_size=56, mlp_ratio=2, **width)),
    )
    return sd15.write_models(folder, torch.float32, builders)


def owlv2(folder: Path) -> Path:
    """An OWLv2 with pictures of 64 px and the pocket vocabulary."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    from flexip.pocket import weights_path

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(weights_path() / "tokenizer")
    width = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1, "pad_token_id": 0}
    config = Owlv2Config(
        text_config={**width, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**width, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": 64, "width": 64})
    Owlv2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path, words: list[str]) -> Path:
    """A Grounding DINO that knows these words."""
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(0)
    tokenizer = bert_tokenizer(words)
    swin = cast(Any, SwinConfig)(
        image_size=64,
        window_size=4,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
        out_indices=[2, 3, 4],
    )
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config={
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 37,
            "max_position_embeddings": 64,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,  # with one, the tied box heads have nothing to tie
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=10,
        num_feature_levels=4,
        max_text_len=64,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    """A SAM 2 with pictures of 128 px."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2Processor,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    torch.manual_seed(0)
    hiera = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[128, 128],
        window_positional_embedding_background_size=[2, 2],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[],
    )
    vision = Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16, mask_input_channels=4)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=32)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    Sam2Model(config).save_pretrained(folder)
    images = Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
    Sam2Processor(image_processor=images).save_pretrained(folder)
    return folder


def blip(folder: Path, words: list[str]) -> Path:
    """A BLIP captioner that knows these words."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    torch.manual_seed(0)
    tokenizer = bert_tokenizer(words)
    width = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 101, "eos_token_id": 102, "sep_token_id": 102, "pad_token_id": 0}
    config = BlipConfig(
        text_config={
            **width,
            **ends,
            "vocab_size": len(tokenizer),
            "encoder_hidden_size": 32,
            "projection_dim": 32,
            "max_position_embeddings": 64,
        },
        vision_config={**width, "image_size": 32, "patch_size": 8},
        projection_dim=32,
        image_text_hidden_size=32,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def clip_vision(folder: Path, width: int) -> Path:
    """A CLIP image tower whose embeddings are `width` wide."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=width,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def bert_tokenizer(words: list[str]):
    """A BertTokenizer of whole words, its special tokens where Grounding DINO expects BERT's: 101, 102, 1012, 1029."""
    from transformers import BertTokenizer

    pieces = [f"[unused{i}]" for i in range(1031)]
    for place, token in {
        0: "[PAD]",
        100: "[UNK]",
        101: "[CLS]",
        102: "[SEP]",
        103: "[MASK]",
        1012: ".",
        1029: "?",
    }.items():
        pieces[place] = token
    return BertTokenizer(vocab={piece: i for i, piece in enumerate([*pieces, *words])})


def clip(folder: Path) -> Path:
    """A CLIP with pictures of 32 px and the pocket vocabulary, which rates pictures as CLIP-IQA does."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    from flexip.pocket import weights_path

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(weights_path() / "tokenizer")
    width = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**width, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**width, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder
