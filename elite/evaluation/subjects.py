"""Whom and what an evaluation draws: subjects with their pictures, prompts and look-alikes.

They come from a folder in the layout of google/dreambooth (a folder of pictures for each subject), or from the world of
the miniature, which can render any subject anywhere and so knows floors and ceilings that photographs do not have.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elite.dreambench import LIVE_CLASSES, LIVE_PROMPTS, OBJECT_PROMPTS, SUBJECTS
from elite.io.images import read_image, read_mask

if TYPE_CHECKING:
    from PIL.Image import Image

    from elite.toybox.world import Subject

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MASK = "-mask"  # ends the name, without suffix, of the mask that belongs to a picture
REFERENCES, LOOKALIKES, VIEWS = 6, 20, 2  # pictures of a subject of the miniature, others of its class, views of each
Lookalikes = tuple[tuple["Image", ...], ...]  # pictures of each of some other subjects
Renderer = Callable[[str, int], "Image"]  # prompt with "{}", seed -> a picture of what it says


@dataclass(frozen=True, eq=False)
class Example:
    """A picture of a subject, and where the subject is: mode L, white on it; None for the whole picture."""

    image: Image
    mask: Image | None = None


@dataclass(frozen=True, eq=False)
class EvaluationSubject:
    """One subject of an evaluation.

    Attributes:
        name: of its own.
        class_name: what stands in the text where the subject stands in the prompt.
        given: the one picture a method learns it from.
        references: other pictures of it, at least one; the given one is not among them.
        prompts: what is drawn, with "{}" for the subject.
        load_lookalikes: gives `lookalikes`; it is called once, when they are asked for.
        render: draws the subject itself as a prompt says (the miniature's world only).
        render_other: draws another one of its class (likewise).
    """

    name: str
    class_name: str
    given: Example
    references: tuple[Image, ...]
    prompts: tuple[str, ...]
    load_lookalikes: Callable[[], Lookalikes] = tuple
    render: Renderer | None = None
    render_other: Renderer | None = None

    @cached_property
    def lookalikes(self) -> Lookalikes:
        """Pictures of other subjects of its class, equally many of each; empty where there are none."""
        return self.load_lookalikes()


def fill(prompt: str, noun: str) -> str:
    """The prompt with ``noun`` for "{}": "a {}" becomes "an owl" where English wants it."""
    article = "an {}" if noun[:1].lower() in "aeiou" else "a {}"
    return (article + prompt.removeprefix("a {}") if prompt.startswith("a {}") else prompt).format(noun)


def prompts_of_class(class_name: str, live: frozenset[str] = LIVE_CLASSES) -> tuple[str, ...]:
    """DreamBench's 25 prompts (Table 5) for a living class or for a thing."""
    return LIVE_PROMPTS if class_name in live else OBJECT_PROMPTS


def folder_subjects(
    folder: str | Path, names: Sequence[str] | None = None, prompts: int | None = None
) -> list[EvaluationSubject]:
    """Subjects of a folder in the layout of google/dreambooth: ``FOLDER/SUBJECT/00.jpg``, ``01.jpg`` and so on.

    The first picture, in the order of names, is the given one. ``00-mask.png`` beside it is its mask. The class of a
    subject that DreamBench does not have stands in ``FOLDER/SUBJECT/class.txt``; prompts of its own, one a line with
    "{}" for the subject, in ``prompts.txt`` there or in ``FOLDER``.

    Args:
        folder: of the subjects.
        names: only these, in this order; all when left out.
        prompts: only that many of each, spread over its list.

    Raises:
        FileNotFoundError: when the folder or a picture is missing, or it holds no subjects.
        ValueError: for an unknown subject, one with fewer than two pictures, without class or without prompts, or a
            picture that cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"subjects {root} is no folder; give one with a folder of pictures for each subject.")
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"subjects {root} is empty: it must hold a folder of pictures for each subject.")
    chosen = found if names is None else list(names)
    unknown = [name for name in chosen if name not in found]
    if unknown:
        raise ValueError(f"subjects holds {unknown[0]!r}, which is no folder of {root}: it has {', '.join(found)}.")
    parts = [_read_folder(root / name, root, prompts) for name in chosen]
    # Another subject of the class is what there is of look-alikes among photographs.
    return [_with_lookalikes(part, parts) for part in parts]


def _read_folder(folder: Path, root: Path, prompts: int | None) -> EvaluationSubject:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    pictures = [path for path in files if not path.stem.endswith(MASK)]
    if len(pictures) < 2:
        raise ValueError(
            f"subject {folder.name} has {len(pictures)} pictures in {folder}; it needs at least two: one that is given "
            "and one to compare with."
        )
    given = read_image(pictures[0])
    masks = [path for path in files if path.stem == pictures[0].stem + MASK]
    return EvaluationSubject(
        folder.name,
        _class_of(folder),
        Example(given, read_mask(masks[0], given.size) if masks else None),
        tuple(read_image(path) for path in pictures[1:]),
        spread(_prompts_of(folder, root), prompts),
    )


def _class_of(folder: Path) -> str:
    path = folder / "class.txt"
    if path.is_file():
        name = path.read_text(encoding="utf-8").strip()
        if not name or "\n" in name:
            raise ValueError(f"{path} must hold the name of a class, such as dog, and nothing else.")
        return name
    if folder.name in SUBJECTS:
        return SUBJECTS[folder.name]
    raise ValueError(
        f"subject {folder.name} is none of DreamBench's: write the name of its class, such as dog, in {path}."
    )


def _prompts_of(folder: Path, root: Path) -> tuple[str, ...]:
    for path in (folder / "prompts.txt", root / "prompts.txt"):
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            prompts = tuple(line for line in lines if line)
            if not prompts:
                raise ValueError(f"subject {folder.name} has no prompts: {path} is empty; write one a line.")
            for prompt in prompts:
                if prompt.count("{}") != 1:
                    raise ValueError(f'{path} holds {prompt!r}; each prompt must hold "{{}}" once, for the subject.')
            return prompts
    return prompts_of_class(_class_of(folder))


def spread(prompts: tuple[str, ...], count: int | None) -> tuple[str, ...]:
    """``count`` of the prompts, evenly over their list; all of them where that is None.

    Raises:
        ValueError: for a count below 1.
    """
    if count is None or count >= len(prompts):
        return prompts
    if count < 1:
        raise ValueError(f"prompts must be at least 1, got {count}.")
    return tuple(prompts[number * len(prompts) // count] for number in range(count))


def _with_lookalikes(subject: EvaluationSubject, everyone: Sequence[EvaluationSubject]) -> EvaluationSubject:
    others = [one for one in everyone if one.class_name == subject.class_name and one.name != subject.name]
    count = min((len(one.references) for one in others), default=0)
    pictures = tuple(one.references[:count] for one in others)
    return replace(subject, load_lookalikes=lambda: pictures)


def toybox_subjects(
    subjects: Sequence[Subject] | None = None, prompts: int | None = None, seed: int = 0
) -> list[EvaluationSubject]:
    """The miniature's held-out subjects, rendered: a close-up that is given, others in scenes, and look-alikes.

    Args:
        subjects: the twenty held-out ones when left out.
        prompts: only that many of each, spread over DreamBench's list.
        seed: of all that is rendered.
    """
    from elite.toybox.world import EVALUATION_SUBJECTS

    chosen = EVALUATION_SUBJECTS if subjects is None else subjects
    return [_rendered(subject, number, prompts, seed) for number, subject in enumerate(chosen)]


def _rendered(subject: Subject, number: int, prompts: int | None, seed: int) -> EvaluationSubject:
    from elite.toybox.world import LIVE, SCENES, Subject, render

    name = subject.class_name
    key = f"evaluation:{seed}:{number}:{name}"
    draw = random.Random(key)
    close_up = render(subject, scene=draw.choice(SCENES), seed=draw.randrange(2**31), close_up=True)
    others = [Subject.sample(f"lookalike:{seed}:{number}:{each}", name) for each in range(LOOKALIKES)]

    def pictures(one: Subject, count: int, draw: random.Random) -> tuple[Image, ...]:
        scenes = draw.sample(SCENES, count)
        return tuple(render(one, scene=scene, seed=draw.randrange(2**31)).image for scene in scenes)

    def lookalikes() -> Lookalikes:
        drawn = random.Random(f"{key}:lookalikes")
        return tuple(pictures(one, VIEWS, drawn) for one in others)

    def renderer(one: Subject) -> Renderer:
        return lambda prompt, seed: render(one, **facts_of(prompt), seed=seed).image

    return EvaluationSubject(
        f"{number:02d}-{name}",
        name,
        Example(close_up.image, close_up.mask),
        pictures(subject, REFERENCES, draw),
        spread(prompts_of_class(name, LIVE), prompts),
        lookalikes,
        renderer(subject),
        renderer(others[0]),
    )


def facts_of(prompt: str) -> dict[str, Any]:
    """What a prompt of DreamBench asks the miniature's world for: "scene", "accessory" or "property"."""
    from elite.toybox.world import ACCESSORIES, PROPERTIES, SCENES

    before, _, after = (part.strip() for part in prompt.partition("{}"))
    adjective = before.removeprefix("a ").strip()
    found = {
        "scene": after if after in SCENES else None,
        "accessory": after if after in ACCESSORIES else None,
        "property": adjective if adjective in PROPERTIES else None,
    }
    return {name: value for name, value in found.items() if value is not None}
