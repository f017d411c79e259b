"""The world of the toybox: one subject in one scene, drawn from a seed.

A `Subject` is an individual of a class; `render` puts it in a scene; `sample_picture` draws everything from a seed.
"""

from __future__ import annotations

from .captions import FACTS, caption_is_true, write_caption
from .colors import COLORS
from .picture import IMAGE_SIZE, PROPERTIES, Picture, draw_subject, render
from .scenes import SCENES
from .splits import EVALUATION_SUBJECTS, HELD_OUT_PAIRS, SELECTION_SUBJECTS, SPLITS, sample_picture, sample_pictures
from .subject import CLASSES, LIVE, PATTERNS, V0_CLASSES, Subject
from .wearables import ACCESSORIES

__all__ = [
    "ACCESSORIES",
    "CLASSES",
    "COLORS",
    "EVALUATION_SUBJECTS",
    "FACTS",
    "HELD_OUT_PAIRS",
    "IMAGE_SIZE",
    "LIVE",
    "PATTERNS",
    "PROPERTIES",
    "SCENES",
    "SELECTION_SUBJECTS",
    "SPLITS",
    "V0_CLASSES",
    "Picture",
    "Subject",
    "caption_is_true",
    "draw_subject",
    "render",
    "sample_picture",
    "sample_pictures",
    "write_caption",
]
