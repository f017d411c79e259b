"""The picture world: same seed same bytes, true captions, clean splits, and every prompt of DreamBench."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from elite.dreambench import LIVE_PROMPTS, OBJECT_PROMPTS
from elite.toybox import world
from elite.toybox.world.colors import from_hsv, name_of
from elite.toybox.world.subject import LIVE_CLASSES, OTHER_CLASSES


def facts_of(prompt: str) -> dict[str, str | None]:
    """Scene, accessory and property of a DreamBench prompt, read from its text."""
    rest = prompt.split("{}")[1].strip()
    adjective = prompt.split("{}")[0].removeprefix("a ").strip()
    return {
        "scene": rest if rest in world.SCENES else None,
        "accessory": rest if rest in world.ACCESSORIES else None,
        "property": adjective or None,
    }


@pytest.mark.parametrize("seed", [0, 17, 40_001])
def test_the_same_seed_gives_the_same_bytes(seed):
    first, again, other = world.sample_picture(seed), world.sample_picture(seed), world.sample_picture(seed + 1)
    assert first.image.tobytes() == again.image.tobytes() and first.mask.tobytes() == again.mask.tobytes()
    assert first.caption == again.caption and first.subject == again.subject
    assert first.image.tobytes() != other.image.tobytes()


def test_processes_do_not_change_a_picture():
    seeds = list(range(6))
    alone = [p.image.tobytes() for p in world.sample_pictures(seeds, processes=1)]
    assert [p.image.tobytes() for p in world.sample_pictures(seeds, processes=2)] == alone


@pytest.mark.parametrize(
    ("prompts", "name"), [(LIVE_PROMPTS, "fox"), (OBJECT_PROMPTS, "guitar")], ids=["live", "not live"]
)
def test_every_prompt_of_dreambench_can_be_drawn_and_its_caption_is_true(prompts, name):
    assert len(prompts) == 25
    subject, seen = world.Subject.sample(3, name), set()
    for prompt in prompts:
        asked = facts_of(prompt)
        assert any(asked.values()), prompt
        picture = world.render(subject, seed=5, **asked)
        said = {"class_name": name, **asked}
        assert picture.caption == prompt.format(name)
        assert world.caption_is_true(said, picture.facts())
        seen.add(picture.image.tobytes())
    assert len(seen) == 25  # each prompt shows something


def test_a_caption_is_false_of_a_picture_that_shows_something_else():
    picture = world.render(world.Subject.sample(0, "dog"), scene=world.SCENES[0], accessory=world.ACCESSORIES[0])
    assert world.caption_is_true({"class_name": "dog", "scene": None}, picture.facts())
    assert not world.caption_is_true({"class_name": "cat"}, picture.facts())
    assert not world.caption_is_true({"class_name": "dog", "scene": world.SCENES[1]}, picture.facts())
    assert not world.caption_is_true({"class_name": "dog", "accessory": world.ACCESSORIES[1]}, picture.facts())


@pytest.mark.parametrize("name", world.CLASSES)
def test_mask_and_box_surround_the_subject(name):
    picture = world.render(world.Subject.sample(11, name), scene="in the snow", seed=2)
    mask = np.asarray(picture.mask) > 127
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    expected = (columns[0] / 64, rows[0] / 64, (columns[-1] + 1) / 64, (rows[-1] + 1) / 64)
    assert picture.box == pytest.approx(expected)
    assert 0.08 < mask.mean() < 0.8
    assert set(np.unique(np.asarray(picture.mask))) <= {0, 255}


def test_the_mask_is_where_another_subject_changes_the_picture():
    """Rendered without its subject's own pixels, a picture differs only inside the mask (but for its soft edge)."""
    one = world.Subject.sample(1, "mug")
    recoloured = world.Subject.from_dict({**one.to_dict(), "first": (250, 20, 20), "second": (20, 20, 250)})
    first, second = (world.render(s, scene="on the beach", seed=3) for s in (one, recoloured))
    changed = np.abs(np.asarray(first.image, int) - np.asarray(second.image, int)).max(axis=2) > 40
    inside = np.asarray(first.mask) > 127
    assert (changed & ~inside).sum() <= 0.02 * changed.sum()
    assert (changed & inside).sum() > 0.5 * inside.sum()


def test_training_never_sees_what_is_held_out():
    drawn = [world.sample_picture(seed) for seed in range(300)]
    assert not {(p.class_name, p.scene) for p in drawn} & world.HELD_OUT_PAIRS
    assert not {p.subject for p in drawn} & set(world.EVALUATION_SUBJECTS)


def test_the_splits_have_their_planned_sizes():
    assert len(world.EVALUATION_SUBJECTS) == 20 == len(set(world.EVALUATION_SUBJECTS))
    assert [s.class_name for s in world.EVALUATION_SUBJECTS[:12]] == list(world.V0_CLASSES)
    assert len(world.HELD_OUT_PAIRS) == round(0.05 * len(world.CLASSES) * len(world.SCENES))
    assert len(world.CLASSES) == 24 and len(LIVE_CLASSES) == len(OTHER_CLASSES) == 12


def test_validation_draws_other_pictures_than_training():
    train, validation = (world.sample_picture(5, split) for split in world.SPLITS)
    assert train.subject != validation.subject


def test_a_subject_survives_a_file():
    subject = world.Subject.sample(9)
    assert world.Subject.from_dict(json.loads(json.dumps(subject.to_dict()))) == subject


@pytest.mark.parametrize("word", sorted(world.COLORS))
def test_colour_words_name_themselves(word):
    assert name_of(world.COLORS[word]) == word


def test_pale_and_dark_colours_have_no_name():
    rng = random.Random(0)
    for _ in range(50):
        assert name_of(from_hsv(rng.random(), 0.2, 0.9)) is None
        assert name_of(from_hsv(rng.random(), 0.9, 0.3)) is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"scene": "on the moon"}, "scene must be"),
        ({"accessory": "wearing a tie"}, "accessory must be"),
        ({"property": "round"}, "property must be"),
        ({"size": 3}, "size must be"),
    ],
)
def test_what_cannot_be_drawn_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        world.render(world.Subject.sample(0), **wrong)
