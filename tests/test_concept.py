"""A concept survives a file, and is refused where it does not belong."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from elite.adapter import EliteAdapter
from elite.concept import Concept, assign_concepts
from elite.pipeline import ElitePipeline
from tests.helpers import draw, generate, picture

OTHER = Concept(draw(5, 24), draw(16, 24))


def test_a_saved_concept_loads_bit_equal_with_what_made_it(concept, tmp_path):
    path = concept.save(tmp_path / "dog")
    assert path.name == "dog.safetensors"
    loaded = Concept.load(path)
    assert torch.equal(loaded.words, concept.words)
    assert torch.equal(loaded.patch_embeddings, concept.patch_embeddings)
    assert loaded.metadata == concept.metadata
    assert loaded.metadata["layers"] == [6, 1, 2, 3, 4] and loaded.metadata["mask_coverage"] == 0.5
    assert set(loaded.metadata["versions"]) == {"torch", "diffusers", "transformers"}


def test_a_concept_of_another_encoder_is_refused(concept, tmp_path):
    path = concept.save(tmp_path / "dog.safetensors")
    Concept.load(path, encoder=concept.encoder)
    with pytest.raises(ValueError, match=r"made by the encoder .* encode the picture again"):
        Concept.load(path, encoder="0123456789abcdef")


@torch.no_grad()
def test_a_concept_is_refused_once_any_weight_of_its_adapter_changed(fresh):
    """Signs alone would not tell: every weight grows a little."""
    made = fresh.encode_concept(picture(1))
    generate(fresh, concept=made)
    for parameter in fresh.adapter.parameters():
        parameter.mul_(1.02)
    with pytest.raises(ValueError, match=r"made by the adapter .* encode the picture again"):
        generate(fresh, concept=made)
    generate(fresh, concept=fresh.encode_concept(picture(1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_concept_fits_its_adapter_in_another_type_and_after_saving_that_again(fresh, concept, tmp_path, dtype):
    fresh.save_pretrained(tmp_path / "first")
    half = ElitePipeline.from_pretrained(tmp_path / "first").to(dtype)
    half.adapter.save_pretrained(tmp_path / "second")
    again = EliteAdapter.from_pretrained(tmp_path / "second")
    assert again.dtype is dtype and again.content_id == concept.metadata["adapter"] == half.adapter.content_id
    makers = half.adapter.made_by(half.image_encoder)
    concept.check_makers(makers)
    assert half.encode_concept(picture(1)).metadata["image_encoder"] == concept.metadata["image_encoder"]
    with pytest.raises(ValueError, match="made by the image encoder"):
        concept.check_makers({**makers, "image_encoder": "0123456789abcdef"})


def test_a_concept_of_an_earlier_release_is_held_to_its_fingerprint(tiny, concept):
    old = Concept(concept.words, concept.patch_embeddings, {"encoder": concept.encoder})
    assert torch.equal(generate(tiny, concept=old), generate(tiny, concept=concept))
    for makers in ({"encoder": "0123456789abcdef"}, {"adapter": "x", "encoder": "0123456789abcdef"}):
        with pytest.raises(ValueError, match="made by the encoder"):
            old.check_makers(makers)


def test_what_is_no_concept_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Concept.load(tmp_path / "none.safetensors")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        Concept.load(path)
    save_file({"words": draw(5, 24)}, path)
    with pytest.raises(ValueError, match="not an ELITE concept"):
        Concept.load(path)
    with pytest.raises(ValueError, match="NaN"):
        Concept(torch.full((5, 24), float("nan")), draw(16, 24)).save(path)
    with pytest.raises(ValueError, match="words must be"):
        Concept(draw(1, 5, 24), draw(16, 24))
    with pytest.raises(ValueError, match="of one text encoder"):
        Concept(draw(5, 24), draw(16, 20))


def test_concepts_go_to_prompts_one_for_all_one_each_or_by_placeholder(concept):
    prompts = ["a S*", "the S*"]
    assert assign_concepts(prompts, concept) == ([concept, concept], ["S*", "S*"])
    assert assign_concepts(prompts, [concept, OTHER])[0] == [concept, OTHER]
    chosen, marks = assign_concepts(["a <dog>", "a <cat>"], {"<cat>": concept, "<dog>": OTHER})
    assert chosen == [OTHER, concept] and marks == ["<dog>", "<cat>"]


def test_a_placeholder_that_begins_like_another_is_told_apart(concept):
    subjects = {"S1": concept, "S10": OTHER}
    assert assign_concepts(["a S10", "a S1"], subjects) == ([OTHER, concept], ["S10", "S1"])
    with pytest.raises(ValueError, match="one subject a prompt"):
        assign_concepts(["S1 and S10"], subjects)


def test_wrong_assignments_are_refused(concept):
    with pytest.raises(ValueError, match="list of 1, but there are 2"):
        assign_concepts(["S*", "S*"], [concept])
    with pytest.raises(ValueError, match="one subject a prompt"):
        assign_concepts(["<cat> and <dog>"], {"<cat>": concept, "<dog>": OTHER})
    with pytest.raises(ValueError, match="none of the placeholders"):
        assign_concepts(["a horse"], {"<cat>": concept})
    with pytest.raises(TypeError, match="must be a Concept"):
        assign_concepts(["S*"], "dog.png")
    with pytest.raises(ValueError, match="equal shapes"):
        assign_concepts(["S*", "S*"], [concept, Concept(draw(3, 24), draw(16, 24))])
