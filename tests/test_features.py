"""What the mappers read: layers, pixels, masks on the patch grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elite.features import CLIP_MEAN, CLIP_STD, clip_features, default_layers, patch_mask, preprocess
from tests.helpers import draw, picture, tiny_image_encoder


def test_default_layers_are_the_paper_s_at_depth_24_and_keep_their_fractions():
    assert default_layers(24) == (24, 4, 8, 12, 16)
    assert default_layers(12) == (12, 2, 4, 6, 8)
    assert default_layers(6) == (6, 1, 2, 3, 4)
    for depth in range(1, 40):
        layers = default_layers(depth)
        assert layers[0] == depth
        assert len(set(layers)) == len(layers) and all(1 <= layer <= depth for layer in layers)
    with pytest.raises(ValueError, match="at least 1"):
        default_layers(0)


def test_features_are_the_layers_outputs_without_the_final_norm():
    encoder = tiny_image_encoder()
    pixels = draw(2, 3, 16, 16)
    outputs = {}
    layers = encoder.vision_model.encoder.layers
    for i, layer in enumerate(layers, start=1):
        layer.register_forward_hook(
            lambda m, a, out, i=i: outputs.__setitem__(i, out[0] if isinstance(out, tuple) else out)
        )
    with torch.no_grad():
        features = clip_features(encoder, pixels)
    for feature, layer in zip(features, (6, 1, 2, 3, 4), strict=True):
        assert feature.shape == (2, 17, 20)
        assert torch.equal(feature, outputs[layer])


@pytest.mark.parametrize("layers", [(7,), (-1,), (6, 1.0), ("6",), ()])
def test_unknown_layer_is_refused_before_the_encoder_runs(layers):
    encoder = tiny_image_encoder()
    with pytest.raises(ValueError, match="layers"):
        clip_features(encoder, None, layers)


def test_pixels_are_resized_whole_and_normalised():
    image = picture(size=(16, 16))
    values = (np.asarray(image, dtype=np.float32) / 255 - CLIP_MEAN) / CLIP_STD
    got = preprocess(image, 16)
    assert got.shape == (1, 3, 16, 16) and got.dtype == torch.float32
    torch.testing.assert_close(got[0].permute(1, 2, 0), torch.from_numpy(values).float())
    assert preprocess([picture(0), picture(1, (9, 40))], 16).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="must be RGB"):
        preprocess(image.convert("L"), 16)
    with pytest.raises(ValueError, match="at least one"):
        preprocess([], 16)


def test_mask_on_the_grid_is_in_reading_order():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 0:2, 4:6] = 1  # first row of patches, third column
    for mode in ("nearest", "area"):
        assert patch_mask(mask, 4, mode).flatten().tolist() == [0, 0, 1, 0] + [0] * 12
    mask[..., 0, 0] = 1
    assert patch_mask(mask, 4, "area")[0, 0, 0] == 0.25
    with pytest.raises(ValueError, match="mode"):
        patch_mask(mask, 4, "mean")
    with pytest.raises(ValueError, match="mask must be"):
        patch_mask(mask[0], 4)
