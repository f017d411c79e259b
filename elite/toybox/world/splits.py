"""Which pictures are for training, which for validation, and what no training ever sees."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from .picture import IMAGE_SIZE, PROPERTIES, Picture, render
from .scenes import SCENES
from .subject import CLASSES, V0_CLASSES, Subject
from .wearables import ACCESSORIES

# Class × scene pairs that no training picture shows: one scene in twenty for each class.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (name, SCENES[(7 * number + 3) % len(SCENES)]) for number, name in enumerate(CLASSES)
)
# Twenty subjects that no training picture shows; the first twelve are one of each class of `V0_CLASSES`.
_HELD_OUT_CLASSES = (*V0_CLASSES, *(name for name in CLASSES if name not in V0_CLASSES))[:20]
EVALUATION_SUBJECTS: tuple[Subject, ...] = tuple(
    Subject.sample(f"test:{number}", name) for number, name in enumerate(_HELD_OUT_CLASSES)
)
# Forty more, for curves and for choosing settings: what is chosen is never chosen with a look at the twenty above.
SELECTION_SUBJECTS: tuple[Subject, ...] = tuple(
    Subject.sample(f"selection:{number}", CLASSES[(7 * number) % len(CLASSES)]) for number in range(40)
)
SPLITS = ("train", "validation")
_CAPTION_TEMPLATES = ("{}", "{}", "a photo of a {}", "a rendering of a {}", "a photo of the {}")


def sample_picture(seed: int, split: str = "train", classes: Sequence[str] | None = None, size: int = IMAGE_SIZE) -> Picture:
    """Draw a picture; the same seed and split give the same one.

    Args:
        seed: any whole number; every seed has a subject of its own.
        split: "train" or "validation". Held-out subjects appear in neither, held-out pairs not in "train".
        classes: restrict the classes.
        size: side of the picture in pixels; what it shows does not depend on it.

    Returns:
        The picture.

    Raises:
        ValueError: for an unknown split or class.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
    chosen = tuple(classes or CLASSES)
    unknown = sorted(set(chosen) - set(CLASSES))
    if unknown:
        raise ValueError(f"classes holds {unknown[0]!r}, which is none of {', '.join(CLASSES)}.")
    rng = random.Random(f"{split}:{seed}")
    subject = Subject.sample(f"{split}:{seed}", rng.choice(chosen))
    free = [scene for scene in SCENES if split != "train" or (subject.class_name, scene) not in HELD_OUT_PAIRS]
    scene = None if rng.random() < 0.15 else rng.choice(free)
    accessory = rng.choice(ACCESSORIES) if rng.random() < 0.3 else None
    prop = rng.choice(PROPERTIES) if rng.random() < 0.2 else None
    return render(
        subject,
        scene=scene,
        accessory=accessory,
        property=prop,
        seed=rng.randrange(1 << 30),
        close_up=rng.random() < 0.15,
        size=size,
        template=rng.choice(_CAPTION_TEMPLATES),
        say_color=rng.random() < 0.5,
        say_pattern=rng.random() < 0.5,
    )


def sample_pictures(
    seeds: Sequence[int], split: str = "train", classes: Sequence[str] | None = None, processes: int = 2
) -> Iterator[Picture]:
    """`sample_picture` for many seeds, on several processes, in the order of the seeds.

    Args:
        seeds: the seeds.
        split: see `sample_picture`.
        classes: see `sample_picture`.
        processes: how many; 1 stays in this one.

    Yields:
        The pictures.
    """
    if processes == 1:
        for seed in seeds:
            yield sample_picture(seed, split, classes)
        return
    with ProcessPoolExecutor(processes) as pool:
        count = len(seeds)
        yield from pool.map(sample_picture, seeds, [split] * count, [classes] * count, chunksize=64)
