"""Import paths of 0.1 still lead to the very modules that took their place."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

from elite._moved import MOVED, PROMISED

PROMISED_NAMES = {
    "elite": """
        AttentionRecord Concept Conditioning EliteAdapter EliteConfig ElitePipeline GlobalMapper LocalMapper
        PLACEHOLDER TEMPLATES clip_features condition default_guidance default_layers encode_prompts
        global_loss guided_noise_prediction load_official load_pipeline local_loss patch_mask preprocess
        read_image read_mask record_attention reweight sample_lms save_official select_words tokenize
    """,
    "elite.attention": """
        AttentionRecord Conditioning EliteAttnProcessor check_processors condition cross_attention_layers
        install_processors local_values record_attention relative_map remove_processors restore_processors
        reweight
    """,
    "elite.legacy": """
        load_text_encoder load_unet load_vision_encoder
    """,
    "elite.losses": """
        diffusion_loss global_loss local_loss min_snr_weights
    """,
    "elite.prompts": """
        TokenizedPrompts encode_prompts inject_words select_words tokenize
    """,
    "elite.sampling": """
        guided_noise_prediction sample_lms
    """,
}


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_gives_the_module_at_its_new_place(monkeypatch, old):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert [MOVED[old] in str(w.message) for w in said if old in str(w.message)] == ([] if old in PROMISED else [True])


def test_what_lies_in_a_folder_that_moved_is_not_loaded_twice():
    with pytest.warns(DeprecationWarning, match=r"elite\.commands\.generate is elite\.cli\.generate"):
        from elite.commands.generate import Sampler
    from elite.cli.generate import Sampler as now

    assert Sampler is now


@pytest.mark.parametrize("module", PROMISED_NAMES)
def test_public_names_of_0_1_are_where_they_were(module):
    found = importlib.import_module(module)
    assert [name for name in PROMISED_NAMES[module].split() if not hasattr(found, name)] == []
