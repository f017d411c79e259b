"""What the toybox's ELITE adapter reaches on the held-out subjects: identity, and scenes kept while editing.

Identity is told by the identity encoder on a scale between two ends: 0 is another subject of the same class, 1 another
rendering of the same subject. Scenes are told by the judge. Neither had a part in training the adapter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from elite.backbones import default_guidance
from elite.prompts import PLACEHOLDER
from elite.toybox import load_identity_encoder, load_judge
from elite.toybox.judge import Judge
from elite.toybox.metrics import accuracy
from elite.toybox.report_data import to_tensor
from tools.toybox.sheets import save_sheet, sheet, to_pictures
from elite.toybox.world import EVALUATION_SUBJECTS, SCENES, Picture, Subject, render

if TYPE_CHECKING:
    from elite.concept import Concept
    from elite.pipeline import ElitePipeline

STEPS, BATCH = 25, 20
GUIDANCE, PAPER_GUIDANCE = default_guidance("toybox"), 5.0  # the first was chosen on other subjects than these
PHOTO_PROMPT, PHOTO_WEIGHT, EDIT_WEIGHT = f"a photo of a {PLACEHOLDER}", 0.8, 0.6
PHOTOS = 3  # pictures of each subject
RENDERINGS = 6  # of each subject for each end of the scale, and for what pictures are compared with
SHOWN = 4  # edits of each subject and kind on the sheet
# All kinds of edits are drawn from the same noise.
EDITS = {
    "edit": {"fusion_weight": EDIT_WEIGHT, "words": "w0"},
    "without_local": {"fusion_weight": 0.0, "words": "w0"},
    "all_words": {"fusion_weight": EDIT_WEIGHT, "words": "all"},
    "paper_guidance": {"fusion_weight": EDIT_WEIGHT, "words": "w0", "guidance_scale": PAPER_GUIDANCE},
}


@dataclass(frozen=True)
class IdentityScale:
    """Identity between 0 (another subject of the same class) and 1 (another rendering of the same subject).

    Attributes:
        gallery: unit features of renderings of each of S subjects, (S, K, D): what pictures are compared with.
        low: mean likeness of the renderings of other subjects of its class to each subject's gallery, (S,).
        high: mean likeness of further renderings of the same subject, (S,).
    """

    gallery: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def from_features(cls, gallery: Tensor, same: Tensor, others: Tensor) -> IdentityScale:
        """A scale whose ends are the means of ``same`` and ``others``, each unit features (S, R, D)."""
        low, high = (torch.einsum("srd,skd->srk", part, gallery).mean((1, 2)) for part in (others, same))
        return cls(gallery, low, high)

    def __call__(self, features: Tensor, rows: Sequence[int]) -> float:
        """Mean identity of pictures on the scale; NaN where the encoder cannot tell the two ends apart.

        Args:
            features: unit features of P pictures, (P, D).
            rows: which of the S subjects each should show.
        """
        likeness = torch.einsum("pd,pkd->pk", features, self.gallery[rows]).mean(1)  # (P,)
        span = (self.high - self.low)[rows].mean()
        # A quotient of means: a subject with a close lookalike in its class would otherwise outweigh all others.
        return float((likeness - self.low[rows]).mean() / span) if span > 1e-6 else float("nan")


def renderings(subject: Subject, count: int, key: str) -> list[Picture]:
    """``count`` pictures of a subject in different scenes, drawn from ``key``."""
    draw = random.Random(f"concept report:{key}")
    return [render(subject, scene=scene, seed=draw.randrange(2**31)) for scene in draw.sample(SCENES, count)]


def given_picture(subject: Subject, key: str) -> Picture:
    """The picture that a subject is encoded from: it fills the frame, as the mappers saw their objects in training."""
    draw = random.Random(f"concept report:input:{key}")
    return render(subject, scene=draw.choice(SCENES), seed=draw.randrange(2**31), close_up=True)


@torch.no_grad()
def identity_scale(encoder: Callable[[Tensor], Tensor], subjects: Sequence[Subject], seed: int) -> IdentityScale:
    """The scale for ``subjects``, its ends measured on `RENDERINGS` pictures each."""
    gallery, same, others = [], [], []
    for row, subject in enumerate(subjects):
        pictures = renderings(subject, 2 * RENDERINGS, f"{seed}:{row}")
        gallery += pictures[:RENDERINGS]
        same += pictures[RENDERINGS:]
        for number in range(RENDERINGS):
            rival = Subject.sample(f"rival:{seed}:{row}:{number}", subject.class_name)
            others += renderings(rival, 1, f"rival:{seed}:{row}:{number}")
    sets = (encode(encoder, torch.stack([to_tensor(p.image) for p in part])) for part in (gallery, same, others))
    return IdentityScale.from_features(*(features.unflatten(0, (len(subjects), RENDERINGS)) for features in sets))


def encode(encoder: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Unit features (B, D) of images (B, 3, 64, 64) in [-1, 1], a hundred at a time."""
    return torch.cat([encoder(part) for part in images.split(100)])


def edit_prompts(subjects: int, scenes: int) -> list[tuple[int, str]]:
    """(subject, scene): ``scenes`` for each subject, each scene as often as every other, without repetition."""
    step = max(1, len(SCENES) // scenes)
    return [(row, SCENES[(row + step * number) % len(SCENES)]) for row in range(subjects) for number in range(scenes)]


def draw_pictures(
    pipeline: ElitePipeline, prompts: Sequence[str], concepts: Sequence[Concept], seed: int, **options: object
) -> Tensor:
    """Pictures of prompts, one concept each, (P, 3, 64, 64) in [-1, 1]: one seed a picture."""
    parts = []
    for first in range(0, len(prompts), BATCH):
        some = list(prompts[first : first + BATCH])
        output = pipeline(
            some,
            concept=list(concepts[first : first + BATCH]),
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(seed + first + place) for place in range(len(some))],
            output_type="pt",
            **{"guidance_scale": GUIDANCE, **options},
        )
        parts.append(output.images.float().cpu() * 2 - 1)
    return torch.cat(parts)


@torch.no_grad()
def concept_report(
    pipeline: ElitePipeline,
    seed: int,
    build: Path = Path("build/toybox"),
    weights: Path | None = None,
    scenes: int = 6,
    encoder: Callable[[Tensor], Tensor] | None = None,
    judge: Judge | None = None,
) -> dict[str, float]:
    """Measure an adapter on the held-out subjects, and save sheets to look at.

    Each subject's concept is encoded from one close-up and its mask.

    Args:
        pipeline: the toybox with its adapter.
        seed: of renderings and noise.
        build: folder of the sheets ``concepts.png`` (each row: what was encoded, "a photo of a S*", then the same
            edits with the local branch, without it, with all words, and at the paper's guidance) and
            ``concepts.txt`` (their prompts).
        weights: folder of the identity encoder and the judge; the bundled one when left out.
        scenes: how many scenes each subject is put in, at most 20.
        encoder: identity encoder, the one of ``weights`` when left out.
        judge: classifier, likewise. Subjects of classes that it does not know are left out.

    Returns:
        ``concept_identity`` of "a photo of a S*" at 0.8; of the edits at 0.6 ``edit_identity`` and
        ``edit_scene_accuracy``, both also ``_without_local`` (fusion weight 0) and ``_all_words``; at the paper's
        guidance all three with the ending ``_paper_guidance``.

    Raises:
        ValueError: if ``scenes`` is not in 1 to 20, or the judge knows no subject's class.
    """
    if not 1 <= scenes <= len(SCENES):
        raise ValueError(f"scenes is {scenes}; it must be in 1 to {len(SCENES)}, the number of scenes.")
    encoder = encoder or load_identity_encoder(weights)
    judge = judge or load_judge(weights)
    subjects = [subject for subject in EVALUATION_SUBJECTS if subject.class_name in judge.answers("class")]
    if not subjects:
        raise ValueError("judge knows no class of the held-out subjects; use one trained on the toybox world.")
    scale = identity_scale(encoder, subjects, seed)
    inputs = [given_picture(subject, f"{seed}:{row}") for row, subject in enumerate(subjects)]
    concepts = pipeline.encode_concepts([p.image for p in inputs], [p.mask for p in inputs])

    rows = [row for row in range(len(subjects)) for _ in range(PHOTOS)]
    first = 1_000_000 * (seed + 1)
    numbers, wanted = {}, ([PHOTO_PROMPT] * len(rows), [concepts[row] for row in rows], first)
    for ending, guidance in (("_paper_guidance", PAPER_GUIDANCE), ("", GUIDANCE)):
        photos = draw_pictures(pipeline, *wanted, fusion_weight=PHOTO_WEIGHT, guidance_scale=guidance)
        numbers[f"concept_identity{ending}"] = scale(encode(encoder, photos), rows)

    asked = edit_prompts(len(subjects), scenes)
    prompts, edited = [f"a {PLACEHOLDER} {scene}" for _, scene in asked], [row for row, _ in asked]
    edits = {}
    for kind, options in EDITS.items():
        images = draw_pictures(pipeline, prompts, [concepts[row] for row in edited], first + 500_000, **options)
        seen = [scene for part in images.split(100) for scene in judge(part).scene]
        ending = "" if kind == "edit" else f"_{kind}"
        numbers[f"edit_scene_accuracy{ending}"] = accuracy(seen, [scene for _, scene in asked])
        numbers[f"edit_identity{ending}"] = scale(encode(encoder, images), edited)
        edits[kind] = to_pictures(images)
    _save_sheets(build, inputs, to_pictures(photos), edits, prompts, scenes)
    return numbers


def _save_sheets(
    build: Path,
    inputs: Sequence[Picture],
    photos: Sequence[Image.Image],
    edits: dict[str, list[Image.Image]],
    prompts: Sequence[str],
    scenes: int,
) -> None:
    """One row a subject; a white square parts the groups."""
    gap = Image.new("RGB", inputs[0].image.size, "white")
    rows, lines = [], [f"Columns: the encoded picture, {PHOTO_PROMPT!r}, then edits: {', '.join(EDITS)}.\n"]
    for number, picture in enumerate(inputs):
        some = slice(number * scenes, number * scenes + min(scenes, SHOWN))
        row = [picture.image, photos[number * PHOTOS]]
        for pictures in edits.values():
            row += [gap, *pictures[some]]
        rows.append(row)
        lines.append(f"{picture.class_name}: {'; '.join(prompts[some])}\n")
    save_sheet(sheet(rows), build / "concepts.png")
    (build / "concepts.txt").write_text("".join(lines), encoding="utf-8")
