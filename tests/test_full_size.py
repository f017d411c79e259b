"""At full size, on the meta device: parameter counts of the paper's adapter, and every base model's layers served."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from elite.adapter import EliteAdapter
from elite.attention import check_processors, cross_attention_layers

# unet/config.json of the published models, as far as it differs from the class's defaults
UNETS = {
    "v1-4": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "v1-5": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "v2-1": {
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}
TEXTS = {
    "v1-4": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "v2-1": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}
TEXTS["v1-5"] = TEXTS["v1-4"]
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
}


def build(name):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXTS[name]))
        image_encoder = CLIPVisionModel(CLIPVisionConfig(**CLIP_LARGE))
    return unet, EliteAdapter.for_models(unet, text_encoder, image_encoder)


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("name", ["v1-4", "v1-5"])
def test_each_mapper_with_its_keys_and_values_has_48_million_parameters(name):
    _, adapter = build(name)
    assert round(count(adapter.global_parameters()) / 1e6, 2) == 48.07
    assert round(count(adapter.local_parameters()) / 1e6, 2) == 48.07
    assert round(count(adapter.parameters()) / 1e6, 2) == 96.15
    assert adapter.config.layers == (24, 4, 8, 12, 16)


@pytest.mark.parametrize("name", list(UNETS))
def test_every_cross_attention_layer_is_served(name):
    unet, adapter = build(name)
    adapter.attach(unet)
    assert len(check_processors(unet)) == len(cross_attention_layers(unet)) == 16
    conditioned = [name for name, module in unet.named_modules() if name.endswith("attn1.processor")]
    assert conditioned == []  # self attention keeps its own
    for layer, attn in cross_attention_layers(unet).items():
        key = adapter.processors[layer.replace(".", "_")].to_k_local.weight
        assert key.is_meta and key.shape == attn.to_k.weight.shape


def test_published_key_names_are_those_of_v1_4():
    _, adapter = build("v1-4")
    keys = list(adapter.processors)
    assert keys[0] == "down_blocks_0_attentions_0_transformer_blocks_0_attn2"
    assert keys[-1] == "mid_block_attentions_0_transformer_blocks_0_attn2"
