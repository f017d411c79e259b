"""The mappers compute Eq. 3 and Eq. 5; the recorded numbers are in test_golden.py."""

from __future__ import annotations

import pytest
import torch

from elite.mapping import GlobalMapper, LocalMapper
from tests.helpers import draw


def features(count=3, batch=2, patches=4, width=6):
    return [draw(batch, 1 + patches, width, seed=i) for i in range(count)]


def test_words_follow_equation_3_layer_by_layer():
    mapper = GlobalMapper(6, 5, num_words=3, hidden_dim=8)
    given = features()
    words = mapper(given)
    assert words.shape == (2, 3, 5)
    for b in range(2):
        for i, feature in enumerate(given):
            from_cls = getattr(mapper, f"mapping_{i}")(feature[b, 0])
            from_patches = [getattr(mapper, f"mapping_patch_{i}")(feature[b, 1 + p]) for p in range(4)]
            torch.testing.assert_close(words[b, i], from_cls + sum(from_patches) / 4)


def test_patch_embeddings_add_the_cls_output_to_every_patch():
    """Fails when the CLS broadcast is forgotten, or when layers are summed and not averaged."""
    mapper = LocalMapper(6, 5, num_layers=3, hidden_dim=8)
    given = features()
    embeddings = mapper(given)
    assert embeddings.shape == (2, 4, 5)
    for b in range(2):
        for p in range(4):
            layers = [
                getattr(mapper, f"mapping_{i}")(feature[b, 0])
                + getattr(mapper, f"mapping_patch_{i}")(feature[b, 1 + p])
                for i, feature in enumerate(given)
            ]
            torch.testing.assert_close(embeddings[b, p], sum(layers) / 3)


def test_mask_zeroes_the_background_and_leaves_the_rest():
    mapper = LocalMapper(6, 5, num_layers=3, hidden_dim=8)
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 1]]).unsqueeze(-1)
    masked, whole = mapper(features(), mask), mapper(features())
    assert torch.equal(masked, whole * mask)
    assert (masked[mask.expand_as(masked) == 0] == 0).all()


def test_output_scale_multiplies_the_output():
    first, second = GlobalMapper(6, 5, 3, 8), GlobalMapper(6, 5, 3, 8, output_scale=0.25)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(features()), 0.25 * first(features()))


def test_result_does_not_depend_on_batch_neighbours():
    mapper = LocalMapper(6, 5, num_layers=3, hidden_dim=8)
    torch.testing.assert_close(mapper(features())[:1], mapper([f[:1] for f in features()]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: GlobalMapper(6, 0), "output_dim must be at least 1"),
        (lambda: GlobalMapper(6, 5, num_words=0), "number of feature layers must be at least 1"),
        (lambda: GlobalMapper(6, 5, 3)(features(2)), "must hold 3 layers"),
        (lambda: GlobalMapper(7, 5, 3)(features()), "must be .batch, 1 . patches, 7"),
        (lambda: LocalMapper(6, 5, 3)(features(), torch.ones(2, 9, 1)), "mask must be"),
    ],
)
def test_wrong_shapes_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
