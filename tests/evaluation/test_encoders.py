"""The models that look: the public ones by transformers' own way, the miniature's by its own parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from elite.evaluation import encoders as module
from elite.evaluation.encoders import CLIP_MEAN, CLIP_STD, cropped_pixels, load_encoders, public_encoders
from elite.toybox import WEIGHTS, load_identity_encoder
from elite.toybox.world import EVALUATION_SUBJECTS, render
from tests.helpers import picture, tiny_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A CLIP pair and a DINO of a few numbers, saved as the Hub keeps them."""
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {**small, "image_size": 24, "patch_size": 8}
    clip, dino = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("dino")
    pair = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)).eval()
    pair.save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    network = ViTModel(ViTConfig(**small, image_size=32, patch_size=8), add_pooling_layer=False).eval()
    network.save_pretrained(dino)
    return clip, dino, pair, network, tokenizer


def test_clip_and_dino_give_what_transformers_gives(folders):
    clip, dino, pair, network, tokenizer = folders
    look = public_encoders("cpu", clip, dino)
    images, words = [picture(1, (40, 30)), picture(2, (24, 24))], ["a photo of the", "to"]
    with torch.no_grad():
        given = pair(
            pixel_values=cropped_pixels(images, 24, 24, CLIP_MEAN, CLIP_STD),
            **tokenizer(words, padding=True, return_tensors="pt"),
        )
        pixels = cropped_pixels(images, 37, 32, module.IMAGENET_MEAN, module.IMAGENET_STD)
        token = network(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(look.clip_image(images), given.image_embeds, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(look.clip_text(words), given.text_embeds, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(look.dino(images), token / token.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-6)
    assert set(look.models) == {str(clip), str(dino)} and look.judge is None


def test_pictures_are_resized_and_cut_as_clips_own_processor_does():
    from transformers import CLIPImageProcessor

    try:
        processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
        expected = processor([picture(3, (50, 31))], return_tensors="pt").pixel_values
    except ImportError as error:  # transformers' quicker processors want torchvision
        pytest.skip(str(error))
    found = cropped_pixels([picture(3, (50, 31))], 24, 24, CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_the_middle_is_cut_out():
    values = np.zeros((10, 30, 3), dtype=np.uint8)
    values[:, 10:20] = 255
    found = cropped_pixels([Image.fromarray(values)], 10, 10, (0, 0, 0), (1, 1, 1))
    assert found.shape == (1, 3, 10, 10) and bool((found == 1).all())


@pytest.fixture(scope="module")
def miniatures():
    return load_encoders("toybox", "cpu")


def test_the_miniatures_own_pair_knows_its_pictures(miniatures):
    """Each picture is most like its own caption, and the judge names its scene."""
    scenes = ("in the snow", "on the beach", "in the jungle")
    pictures = [render(one, scene=scene, seed=3) for one, scene in zip(EVALUATION_SUBJECTS, scenes, strict=False)]
    images = [one.image for one in pictures]
    alike = miniatures.clip_image(images) @ miniatures.clip_text([one.caption for one in pictures]).T
    assert alike.argmax(1).tolist() == [0, 1, 2]
    assert miniatures.judge(images)["scene"] == list(scenes)
    assert any(name.endswith("clip_head.safetensors") for name in miniatures.models)


def test_the_identity_encoder_stands_in_dinos_place(miniatures):
    image = render(EVALUATION_SUBJECTS[0], scene="in the snow", seed=1).image
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = load_identity_encoder(WEIGHTS)(pixels)
    torch.testing.assert_close(miniatures.dino([image]), expected, rtol=0, atol=1e-5)


def test_how_many_are_encoded_at_once_does_not_count(miniatures, monkeypatch):
    images = [render(one, scene="in the snow", seed=2).image for one in EVALUATION_SUBJECTS[:5]]
    whole = miniatures.clip_image(images), miniatures.dino(images)
    monkeypatch.setattr(module, "BATCH", 2)
    torch.testing.assert_close(miniatures.clip_image(images), whole[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(miniatures.dino(images[::-1]), whole[1].flip(0), rtol=0, atol=1e-5)


def test_bad_input_is_one_sentence(miniatures):
    with pytest.raises(ValueError, match="encoders must be one of public, toybox"):
        load_encoders("vgg")
    with pytest.raises(ValueError, match="at least one picture or text"):
        miniatures.dino([])
