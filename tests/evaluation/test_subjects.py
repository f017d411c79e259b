"""Subjects from folders as people have them, and from the miniature's world."""

from __future__ import annotations

import pytest
from PIL import Image

from elite.dreambench import LIVE_PROMPTS, OBJECT_PROMPTS
from elite.evaluation.subjects import LOOKALIKES, folder_subjects, toybox_subjects
from elite.toybox.world import EVALUATION_SUBJECTS, LIVE
from tests.helpers import half_mask, picture


@pytest.fixture
def folder(tmp_path):
    """dog and dog2 of DreamBench, and a subject of the reader's own; three pictures each."""
    for number, name in enumerate(("dog", "dog2", "mine")):
        (tmp_path / name).mkdir()
        for place in range(3):
            picture(10 * number + place).save(tmp_path / name / f"{place:02d}.png")
    (tmp_path / "mine" / "class.txt").write_text("kettle\n")
    return tmp_path


def test_a_folder_as_dreambooths_is_read(folder):
    half_mask().save(folder / "dog" / "00-mask.png")
    first, second, mine = folder_subjects(folder)
    assert [one.name for one in (first, second, mine)] == ["dog", "dog2", "mine"]
    assert (first.class_name, mine.class_name) == ("dog", "kettle")
    assert first.given.image.tobytes() == picture(0).tobytes()
    assert first.given.mask.tobytes() == half_mask().tobytes() and second.given.mask is None
    assert [one.tobytes() for one in first.references] == [picture(1).tobytes(), picture(2).tobytes()]
    assert first.prompts == LIVE_PROMPTS and mine.prompts == OBJECT_PROMPTS
    assert [one.tobytes() for one in first.lookalikes[0]] == [one.tobytes() for one in second.references]
    assert mine.lookalikes == ()


def test_prompts_and_subjects_can_be_chosen(folder):
    (folder / "mine" / "prompts.txt").write_text("a {} boiling\n\na blue {}\n")
    mine, dog = folder_subjects(folder, ["mine", "dog"], prompts=2)
    assert mine.prompts == ("a {} boiling", "a blue {}")
    assert dog.prompts == (LIVE_PROMPTS[0], LIVE_PROMPTS[12])


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: (root / "mine" / "class.txt").unlink(), ValueError, "subject mine is none of DreamBench's"),
        (lambda root: (root / "mine" / "prompts.txt").write_text("\n"), ValueError, "subject mine has no prompts"),
        (lambda root: (root / "prompts.txt").write_text("a dog\n"), ValueError, "holds 'a dog'; each prompt must"),
        (lambda root: (root / "dog" / "02.png").write_text("no"), ValueError, "02.png is not a picture"),
        (lambda root: [(root / "dog2" / f"0{i}.png").unlink() for i in (1, 2)], ValueError, "subject dog2 has 1 pict"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        folder_subjects(folder)


def test_a_folder_that_is_missing_empty_or_has_another_subject_is_said(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        folder_subjects(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="is empty"):
        folder_subjects(tmp_path / "empty")
    with pytest.raises(ValueError, match="subjects holds 'unicorn'"):
        folder_subjects(folder, ["unicorn"])


def test_the_miniatures_subjects_are_rendered_the_same_every_time():
    once, again = (toybox_subjects(EVALUATION_SUBJECTS[:2], seed=3) for _ in range(2))
    other = toybox_subjects(EVALUATION_SUBJECTS[:2], seed=4)
    for one, same, different in zip(once, again, other, strict=True):
        assert one.given.image.tobytes() == same.given.image.tobytes() != different.given.image.tobytes()
        assert [each.tobytes() for each in one.references] == [each.tobytes() for each in same.references]
        assert one.given.mask.size == one.given.image.size
        assert one.prompts == (LIVE_PROMPTS if one.class_name in LIVE else OBJECT_PROMPTS)
    assert len(once[0].lookalikes) == LOOKALIKES
    first, second = once[0].lookalikes[0], again[0].lookalikes[0]
    assert [each.tobytes() for each in first] == [each.tobytes() for each in second]


def test_the_world_draws_what_a_prompt_says():
    one = toybox_subjects(EVALUATION_SUBJECTS[:1])[0]
    assert isinstance(one.render("a {} in the snow", 1), Image.Image)
    pictures = [
        one.render("a {} in the snow", 1),
        one.render("a {} on the beach", 1),
        one.render_other("a {} in the snow", 1),
    ]
    assert len({each.tobytes() for each in pictures}) == 3
