"""What the toybox report is measured on: unseen pictures, prompts and subjects, all drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from elite.toybox import world
from elite.toybox.judge import NOTHING
from elite.toybox.world import FACTS, write_caption

UNSEEN_SEED = 20_000_000  # beyond every seed that training and its validation use
IDENTITY_SUBJECTS_PER_CLASS = 12


@dataclass(frozen=True)
class Prompt:
    """A prompt and what the judge must find in its picture; None where the prompt does not say."""

    text: str
    class_name: str
    scene: str | None
    accessory: str | None
    held_out: bool


@dataclass(frozen=True)
class UnseenPictures:
    """Rendered pictures that no part was trained on.

    Attributes:
        images: (N, 3, 64, 64) in [-1, 1].
        masks: (N, 1, 64, 64) in {0, 1}.
        class_names, scenes, accessories: what each shows.
        captions: one a picture, which says class, scene, accessory and colour where there are any.
        said, shown: codes of what each caption says and each picture shows, (N, 5), -1 where a caption says nothing.
    """

    images: Tensor
    masks: Tensor
    class_names: list[str]
    scenes: list[str | None]
    accessories: list[str | None]
    captions: list[str]
    said: Tensor
    shown: Tensor


def to_tensor(picture: Image.Image) -> Tensor:
    """A picture as (3, H, W) in [-1, 1]."""
    values = torch.from_numpy(np.asarray(picture.convert("RGB")).copy())
    return values.permute(2, 0, 1).float() / 127.5 - 1


def unseen_pictures(count: int, classes: Sequence[str], seed: int) -> UnseenPictures:
    """``count`` pictures of the validation split, of the classes that the backbone knows."""
    pictures = [
        world.sample_picture(UNSEEN_SEED + seed * count + i, "validation", tuple(classes)) for i in range(count)
    ]
    facts = [{name: getattr(picture, name) for name in FACTS} for picture in pictures]
    codes: list[dict[str | None, int]] = [{None: 0} for _ in FACTS]
    shown = [
        [code.setdefault(fact[name], len(code)) for name, code in zip(FACTS, codes, strict=True)] for fact in facts
    ]
    said_facts = [fact | ({"color": None} if fact["property"] else {}) for fact in facts]  # one adjective a noun
    said = [
        [-1 if fact[name] is None else code[fact[name]] for name, code in zip(FACTS, codes, strict=True)]
        for fact in said_facts
    ]
    masks = [torch.from_numpy(np.asarray(picture.mask) > 127)[None] for picture in pictures]
    return UnseenPictures(
        images=torch.stack([to_tensor(picture.image) for picture in pictures]),
        masks=torch.stack(masks).float(),
        class_names=[picture.class_name for picture in pictures],
        scenes=[picture.scene for picture in pictures],
        accessories=[picture.accessory for picture in pictures],
        captions=[write_caption("{}", fact) for fact in said_facts],
        said=torch.tensor(said),
        shown=torch.tensor(shown),
    )


def report_prompts(
    count: int, classes: Sequence[str], scenes: Sequence[str], accessories: Sequence[str], seed: int
) -> list[Prompt]:
    """Prompts over all classes and scenes in turn, the held-out pairs among them."""
    draw = random.Random(seed)
    real_scenes = [scene for scene in scenes if scene != NOTHING]
    worn = [accessory for accessory in accessories if accessory != NOTHING]
    held_out = sorted(tuple(pair) for pair in world.HELD_OUT_PAIRS if pair[0] in classes and pair[1] in real_scenes)
    every = [(name, scene) for name in classes for scene in real_scenes if (name, scene) not in held_out]
    draw.shuffle(every)
    pairs = (held_out + every * (1 + count // len(every)))[:count]
    draw.shuffle(pairs)
    prompts = []
    for name, scene in pairs:
        said: dict[str, str | None] = {"class_name": name, "scene": scene}
        if worn and name in world.LIVE and draw.random() < 0.4:
            said["accessory"] = draw.choice(worn)
        elif draw.random() < 0.4:
            said["color"] = draw.choice(sorted(world.COLORS))
        text = write_caption(draw.choice(("{}", "a photo of a {}")), said)
        prompts.append(Prompt(text, name, scene, said.get("accessory"), (name, scene) in held_out))
    return prompts


def identity_pairs(classes: Sequence[str], seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Two pictures in different scenes of unseen subjects: the evaluation subjects and further ones of every class.

    Returns:
        Both pictures of each subject, each (S, 3, 64, 64) in [-1, 1], and the subjects' classes.
    """
    draw = random.Random(seed)
    subjects = [subject for subject in world.EVALUATION_SUBJECTS if subject.class_name in classes]
    for name in classes:
        first = UNSEEN_SEED + draw.randrange(1_000_000)
        subjects += [world.Subject.sample(first + i, name) for i in range(IDENTITY_SUBJECTS_PER_CLASS)]
    views: tuple[list[Tensor], list[Tensor]] = ([], [])
    for subject in subjects:
        for view, scene in zip(views, draw.sample(sorted(world.SCENES), 2), strict=True):
            view.append(to_tensor(world.render(subject, scene=scene, seed=draw.randrange(2**31)).image))
    return torch.stack(views[0]), torch.stack(views[1]), [subject.class_name for subject in subjects]
