"""What a picture is scored with: every convention, against the same thing done by hand."""

from __future__ import annotations

import pytest
import torch

from elite.evaluation.scoring import CONVENTIONS, SubjectScorer, with_identity
from elite.evaluation.subjects import facts_of, fill
from tests.evaluation.worlds import encoders, subject
from tests.helpers import picture

PICTURES = [picture(seed) for seed in (501, 502, 503)]


@pytest.fixture(scope="module")
def one():
    return subject(1)


@pytest.fixture(scope="module")
def scores(one):
    return SubjectScorer(one, encoders())(one.prompts, PICTURES)


def cosines(a, b):
    return torch.cosine_similarity(a[:, None], b[None], dim=-1)


def test_what_a_picture_is_compared_with(one, scores):
    """All pictures of the subject, the given one alone, or all but the given one."""
    look = encoders()
    for metric, encode in (("clip_i", look.clip_image), ("dino_i", look.dino)):
        given, others = encode([one.given.image]), encode(list(one.references))
        drawn = encode(PICTURES)
        expected = {
            metric: cosines(drawn, torch.cat([given, others])).mean(1),
            f"{metric}_input": cosines(drawn, given).mean(1),
            f"{metric}_others": cosines(drawn, others).mean(1),
        }
        for name, values in expected.items():
            assert scores[name] == pytest.approx(values.tolist(), abs=1e-6)
    assert len({scores[name][0] for name in ("clip_i", "clip_i_input", "clip_i_others", "dino_i")}) == 4


def test_which_text_a_picture_is_compared_with(scores):
    look = encoders()
    wanted = {
        "clip_t": ["a dog in the snow", "a red dog", "a dog on the beach"],
        "clip_t_deleted": ["a in the snow", "a red", "a on the beach"],
        "clip_t_background": ["in the snow", None, "on the beach"],
    }
    for name, texts in wanted.items():
        for value, text, image in zip(scores[name], texts, PICTURES, strict=True):
            if text is None:
                assert value is None  # "a red {}" has no words for a background
            else:
                alike = cosines(look.clip_image([image]), look.clip_text([text]))
                assert value == pytest.approx(float(alike), abs=1e-6)
    assert scores["clip_t_scaled"] == pytest.approx([2.5 * max(value, 0) for value in scores["clip_t"]])


def test_every_score_has_a_meaning_and_no_more(one, scores):
    assert set(scores) <= set(CONVENTIONS)
    assert {"retrieval"} <= set(scores) and "scene" not in scores  # these encoders have no judge


def test_the_article_fits_the_noun():
    assert fill("a {} in the snow", "owl") == "an owl in the snow"
    assert fill("a {} in the snow", "dog") == "a dog in the snow"
    assert fill("a red {}", "owl") == "a red owl"


def test_a_judge_counts_where_the_prompt_says_what_should_be_seen(one):
    def judge(images):
        return {
            "class_name": ["dog", "cat", "dog"],
            "scene": ["in the snow", "on the beach", "in the jungle"],
            "color": ["red"] * 3,
        }

    found = SubjectScorer(one, encoders(judge=judge))(one.prompts, PICTURES)
    assert found["scene"] == [1.0, None, 0.0]
    assert found["color"] == [None, 1.0, None]
    assert found["class"] == [1.0, 0.0, 1.0]
    assert "accessory" not in found  # this judge was not asked


def test_prompts_say_what_the_miniature_can_show():
    assert facts_of("a {} in the jungle") == {"scene": "in the jungle"}
    assert facts_of("a {} wearing a santa hat") == {"accessory": "wearing a santa hat"}
    assert facts_of("a cube shaped {}") == {"property": "cube shaped"}
    assert facts_of("a photo of a {}") == {}


def test_identity_goes_from_lookalikes_to_the_subjects_own_pictures(one):
    """0 and 1 for what its ends are made of, whatever the encoder's scale; NaN-free where nothing tells them apart."""
    scorer = SubjectScorer(one, encoders())
    low, high = scorer.ends
    look = encoders()
    others = look.dino(list(one.references))
    flat = look.dino([picture for group in one.lookalikes for picture in group])
    assert low == pytest.approx(float(cosines(flat, others).mean()), abs=1e-6)
    assert high == pytest.approx(float(cosines(others[:1], others[1:])), abs=1e-6)
    likeness = [[[0.1, 0.6]], [[0.2, None]]]
    assert with_identity(likeness, [(0.1, 0.6), (0.1, 0.6)])[0] == [[pytest.approx(0), pytest.approx(1)]]
    # One span for all: a subject with a close look-alike does not outweigh the others.
    assert with_identity(likeness, [(0.0, 0.5), (0.1, 0.2)])[1] == [[pytest.approx(0.1 / 0.3), None]]
    assert with_identity(likeness, [(0.5, 0.5), None]) is None
    assert with_identity(likeness, [(0.5, 0.5), (0.2, 0.2)]) is None


def test_real_pictures_are_compared_with_each_other_and_not_with_themselves(one):
    every = encoders().clip_image([one.given.image, *one.references])
    pairs = [float(cosines(every[i : i + 1], every[j : j + 1])) for i in range(3) for j in range(3) if i != j]
    assert SubjectScorer(one, encoders()).real["clip_i"] == pytest.approx(sum(pairs) / 6, abs=1e-6)


def test_a_score_does_not_depend_on_its_neighbours(one, scores):
    alone = SubjectScorer(one, encoders())(one.prompts[:1], PICTURES[:1])
    assert {name: values[0] for name, values in alone.items()} == pytest.approx(
        {name: scores[name][0] for name in alone}, abs=1e-6
    )
    with pytest.raises(ValueError, match="one for each of the 3 prompts"):
        SubjectScorer(one, encoders())(one.prompts, PICTURES[:2])
