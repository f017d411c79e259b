"""DreamBench: the 30 subjects and 25 prompts of DreamBooth's evaluation, which the paper uses (Table 5).

From ``dataset/prompts_and_classes.txt`` of github.com/google/dreambooth, commit e9b8c013 (CC-BY 4.0). "{}" takes the
subject: the placeholder when generating, the class name when CLIP-T scores the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_SCENES = (
    "a {} in the jungle",
    "a {} in the snow",
    "a {} on the beach",
    "a {} on a cobblestone street",
    "a {} on top of pink fabric",
    "a {} on top of a wooden floor",
    "a {} with a city in the background",
    "a {} with a mountain in the background",
    "a {} with a blue house in the background",
    "a {} on top of a purple rug in a forest",
)
_PROPERTIES = ("a red {}", "a purple {}", "a shiny {}", "a wet {}", "a cube shaped {}")

OBJECT_PROMPTS: tuple[str, ...] = (
    *_SCENES,
    "a {} with a wheat field in the background",
    "a {} with a tree and autumn leaves in the background",
    "a {} with the Eiffel Tower in the background",
    "a {} floating on top of water",
    "a {} floating in an ocean of milk",
    "a {} on top of green grass with sunflowers around it",
    "a {} on top of a mirror",
    "a {} on top of the sidewalk in a crowded street",
    "a {} on top of a dirt road",
    "a {} on top of a white rug",
    *_PROPERTIES,
)

LIVE_PROMPTS: tuple[str, ...] = (
    *_SCENES,
    "a {} wearing a red hat",
    "a {} wearing a santa hat",
    "a {} wearing a rainbow scarf",
    "a {} wearing a black top hat and a monocle",
    "a {} in a chef outfit",
    "a {} in a firefighter outfit",
    "a {} in a police outfit",
    "a {} wearing pink glasses",
    "a {} wearing a yellow shirt",
    "a {} in a purple wizard outfit",
    *_PROPERTIES,
)

# subject folder -> class name
SUBJECTS: Mapping[str, str] = MappingProxyType(
    {
        "backpack": "backpack",
        "backpack_dog": "backpack",
        "bear_plushie": "stuffed animal",
        "berry_bowl": "bowl",
        "can": "can",
        "candle": "candle",
        "cat": "cat",
        "cat2": "cat",
        "clock": "clock",
        "colorful_sneaker": "sneaker",
        "dog": "dog",
        "dog2": "dog",
        "dog3": "dog",
        "dog5": "dog",
        "dog6": "dog",
        "dog7": "dog",
        "dog8": "dog",
        "duck_toy": "toy",
        "fancy_boot": "boot",
        "grey_sloth_plushie": "stuffed animal",
        "monster_toy": "toy",
        "pink_sunglasses": "glasses",
        "poop_emoji": "toy",
        "rc_car": "toy",
        "red_cartoon": "cartoon",
        "robot_toy": "toy",
        "shiny_sneaker": "sneaker",
        "teapot": "teapot",
        "vase": "vase",
        "wolf_plushie": "stuffed animal",
    }
)
LIVE_CLASSES = frozenset({"cat", "dog"})


def prompts_for(subject: str) -> tuple[str, ...]:
    """The 25 prompts of a subject: one list for cats and dogs, another for things.

    Args:
        subject: folder name of DreamBench.

    Returns:
        Texts with "{}" for the subject.

    Raises:
        ValueError: for a subject that DreamBench does not have.
    """
    if subject not in SUBJECTS:
        raise ValueError(
            f"subject must be one of DreamBench's {len(SUBJECTS)} ({', '.join(SUBJECTS)}), got {subject!r}."
        )
    return LIVE_PROMPTS if SUBJECTS[subject] in LIVE_CLASSES else OBJECT_PROMPTS
