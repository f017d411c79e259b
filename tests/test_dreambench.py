"""DreamBench's lists are whole."""

from __future__ import annotations

import pytest

from elite.dreambench import LIVE_PROMPTS, OBJECT_PROMPTS, SUBJECTS, prompts_for


def test_every_subject_has_25_prompts_with_one_gap():
    assert len(SUBJECTS) == 30
    for subject in SUBJECTS:
        prompts = prompts_for(subject)
        assert len(set(prompts)) == 25
        assert all(prompt.count("{}") == 1 for prompt in prompts)


def test_cats_and_dogs_dress_up_and_things_do_not():
    assert prompts_for("cat2") == prompts_for("dog8") == LIVE_PROMPTS
    assert prompts_for("teapot") == OBJECT_PROMPTS
    assert len(set(LIVE_PROMPTS) & set(OBJECT_PROMPTS)) == 15
    with pytest.raises(ValueError, match="subject must be one of"):
        prompts_for("unicorn")
