"""Checks that the book's exercises call: each runs the reader's function and says what is wrong with it."""

from elite.teaching.exercises.cross_attention import (
    check_add_noise,
    check_attention,
    check_guidance,
    check_noise_schedule,
    check_predict_latents,
)
from elite.teaching.exercises.global_mapping import check_global_loss, check_layers, check_word, check_words
from elite.teaching.exercises.local_mapping import (
    check_fusion,
    check_patch_embeddings,
    check_patch_mask,
    check_reweight,
)
from elite.teaching.exercises.training import check_distance, check_draws, check_learning_rate, check_local_loss

__all__ = [
    "check_add_noise",
    "check_attention",
    "check_distance",
    "check_draws",
    "check_fusion",
    "check_global_loss",
    "check_guidance",
    "check_layers",
    "check_learning_rate",
    "check_local_loss",
    "check_noise_schedule",
    "check_patch_embeddings",
    "check_patch_mask",
    "check_predict_latents",
    "check_reweight",
    "check_word",
    "check_words",
]
