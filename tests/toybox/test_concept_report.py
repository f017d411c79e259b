"""The report on held-out subjects: an identity scale that is right at both ends, and scenes counted one by one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from elite.toybox import concept_report as reporting
from elite.toybox.concept_report import PHOTO_PROMPT, IdentityScale, concept_report, edit_prompts
from elite.toybox.judge import Verdict
from elite.toybox.report_data import to_tensor
from elite.toybox.sheets import to_pictures
from elite.toybox.world import CLASSES, EVALUATION_SUBJECTS, SCENES, Subject, render


@dataclass
class Memory:
    """Knows of every rendered picture who is in it, and where: what encoder and judge would have to find out."""

    known: dict[bytes, tuple[Subject, str]] = field(default_factory=dict)

    def render(self, subject: Subject, scene: str, seed: int = 0, close_up: bool = False):
        picture = render(subject, scene=scene, seed=seed, close_up=close_up)
        self.known[picture.image.tobytes()] = subject, scene
        return picture

    def of(self, images: Tensor) -> list[tuple[Subject, str]]:
        return [self.known[picture.tobytes()] for picture in to_pictures(images)]

    def encoder(self, images: Tensor) -> Tensor:
        """A direction for each subject, and a tenth of it for each picture."""
        features = []
        for (subject, _), picture in zip(self.of(images), to_pictures(images), strict=True):
            features.append(_direction(repr(subject)) + 0.3 * _direction(hashlib.sha256(picture.tobytes()).hexdigest()))
        return F.normalize(torch.stack(features), dim=-1)

    def judge(self, classes: tuple[str, ...] = CLASSES):
        def verdict(images: Tensor) -> Verdict:
            return Verdict([], [scene for _, scene in self.of(images)], [])

        verdict.answers = lambda question: list(classes)
        return verdict


def _direction(text: str) -> Tensor:
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
    return F.normalize(torch.randn(256, generator=torch.Generator().manual_seed(seed)), dim=0)


@dataclass
class PastingPipeline:
    """Answers a prompt with a new rendering: of the subject itself, or of another one of its class.

    ``draw`` gives, for (fusion weight, words, prompt's scene), whom and where to show.
    """

    memory: Memory
    draw: Callable
    calls: list[dict] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    seed: int = 0

    def encode_concepts(self, images: list[Image.Image], masks: list[Image.Image]) -> list[Subject]:
        assert all(mask.mode == "L" and mask.getbbox() for mask in masks)
        self.inputs = [image.tobytes() for image in images]
        return [self.memory.known[image][0] for image in self.inputs]

    def __call__(self, prompts: list[str], concept: list[Subject], **options: object) -> SimpleNamespace:
        assert len(prompts) == len(concept) == len(options["generator"]) <= 20
        self.calls.append({"prompts": prompts, **options, "seeds": [g.initial_seed() for g in options["generator"]]})
        images = []
        for prompt, subject in zip(prompts, concept, strict=True):
            self.seed += 1
            said = SCENES[0] if prompt == PHOTO_PROMPT else prompt.removeprefix("a S* ")
            other, scene = self.draw(options["fusion_weight"], options.get("words", "w0"), said)
            shown = Subject.sample(f"stranger:{self.seed}", subject.class_name) if other else subject
            images.append(to_tensor(self.memory.render(shown, scene, 900_000 + self.seed).image))
        return SimpleNamespace(images=(torch.stack(images) + 1) / 2)


def measure(draw: Callable, build: Path, monkeypatch: pytest.MonkeyPatch, classes=CLASSES[:3], scenes: int = 2):
    memory = Memory()
    monkeypatch.setattr(reporting, "render", memory.render)
    pipeline = PastingPipeline(memory, draw)
    numbers = concept_report(
        pipeline, 0, build, scenes=scenes, encoder=memory.encoder, judge=memory.judge(tuple(classes))
    )
    return numbers, pipeline


def test_the_ends_of_the_scale_are_exactly_zero_and_one():
    draw = torch.Generator().manual_seed(0)
    gallery, same, others = (F.normalize(torch.randn(5, 6, 16, generator=draw), dim=-1) for _ in range(3))
    same = F.normalize(same + 3 * gallery, dim=-1)
    scale = IdentityScale.from_features(gallery, same, others)
    rows = [row for row in range(5) for _ in range(6)]
    assert scale(others.flatten(0, 1), rows) == pytest.approx(0, abs=1e-6)
    assert scale(same.flatten(0, 1), rows) == pytest.approx(1, abs=1e-6)
    half = (same + others).flatten(0, 1) / 2
    assert scale(half, rows) == pytest.approx(0.5, abs=1e-6)


def test_a_scale_without_ends_gives_no_number():
    features = F.normalize(torch.ones(2, 3, 8), dim=-1)
    assert torch.tensor(IdentityScale.from_features(features, features, features)(features[0], [0, 1, 1])).isnan()


def test_another_rendering_scores_one_and_another_subject_zero(tmp_path, monkeypatch):
    numbers, _ = measure(lambda weight, words, scene: (weight == 0, scene), tmp_path, monkeypatch)
    assert numbers["concept_identity"] == pytest.approx(1, abs=0.05)
    assert numbers["edit_identity"] == pytest.approx(1, abs=0.05)
    assert numbers["edit_identity_all_words"] == pytest.approx(1, abs=0.05)
    assert numbers["edit_identity_without_local"] == pytest.approx(0, abs=0.05)


def test_scenes_are_counted_for_each_kind_of_edit(tmp_path, monkeypatch):
    turn = Counter()

    def draw(weight: float, words: str, scene: str):
        turn[weight, words] += 1
        wrong = turn[weight, words] <= {(0.6, "w0"): 1, (0.6, "all"): 3}.get((weight, words), 0)
        return False, SCENES[(SCENES.index(scene) + 1) % 20] if wrong else scene

    numbers, _ = measure(draw, tmp_path, monkeypatch)  # three subjects, two scenes: six edits
    assert numbers["edit_scene_accuracy"] == pytest.approx(5 / 6)
    assert numbers["edit_scene_accuracy_all_words"] == pytest.approx(3 / 6)
    assert numbers["edit_scene_accuracy_without_local"] == 1


def test_weights_words_steps_and_seeds_are_those_of_the_report(tmp_path, monkeypatch):
    _, pipeline = measure(lambda weight, words, scene: (False, scene), tmp_path, monkeypatch)
    of_paper, photo, *edits = pipeline.calls
    for call in (of_paper, photo):
        assert call["fusion_weight"] == 0.8 and set(call["prompts"]) == {"a photo of a S*"}
    kinds = [(0.6, "w0", 3.0), (0.0, "w0", 3.0), (0.6, "all", 3.0), (0.6, "w0", 5.0)]
    assert [(call["fusion_weight"], call["words"], call["guidance_scale"]) for call in edits] == kinds
    assert (of_paper["guidance_scale"], photo["guidance_scale"]) == (5.0, 3.0) and of_paper["seeds"] == photo["seeds"]
    assert all(call["num_inference_steps"] == 25 for call in pipeline.calls)
    assert all(call["seeds"] == edits[0]["seeds"] and call["prompts"] == edits[0]["prompts"] for call in edits)
    assert len(set(photo["seeds"] + edits[0]["seeds"])) == len(photo["seeds"]) + len(edits[0]["seeds"])


def test_the_input_is_none_of_the_pictures_it_is_compared_with(tmp_path, monkeypatch):
    memory, compared = Memory(), []
    monkeypatch.setattr(reporting, "render", memory.render)
    pipeline = PastingPipeline(memory, lambda weight, words, scene: (False, scene))

    def encoder(images: Tensor) -> Tensor:
        compared.extend(picture.tobytes() for picture in to_pictures(images))
        return memory.encoder(images)

    concept_report(pipeline, 0, tmp_path, scenes=1, encoder=encoder, judge=memory.judge(CLASSES[:2]))
    assert len(pipeline.inputs) == 2 and not set(pipeline.inputs) & set(compared)
    of_scale = compared[: 2 * 3 * reporting.RENDERINGS]
    assert len(set(of_scale)) == len(of_scale)
    held_out = [memory.known[picture][0] in EVALUATION_SUBJECTS for picture in of_scale]
    assert sum(held_out) == 2 * 2 * reporting.RENDERINGS  # the others are strangers of the same class


@pytest.mark.parametrize("scenes", [1, 6, 7, 20])
def test_scenes_are_spread_evenly_over_the_subjects(scenes):
    asked = edit_prompts(20, scenes)
    assert len(set(asked)) == len(asked) == 20 * scenes
    assert set(Counter(scene for _, scene in asked).values()) == {scenes}


def test_sheets_show_every_subject(tmp_path, monkeypatch):
    measure(lambda weight, words, scene: (False, scene), tmp_path / "sheets", monkeypatch)
    width = 2 + 4 * (1 + 2)  # input, photo, and for each kind a gap and two edits
    assert Image.open(tmp_path / "sheets/concepts.png").size == (128 * width, 128 * 3)
    lines = (tmp_path / "sheets/concepts.txt").read_text().splitlines()
    assert len(lines) == 4 and all(line.startswith(name) for name, line in zip(CLASSES, lines[1:], strict=False))


def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="scenes"):
        measure(lambda *_: (False, SCENES[0]), tmp_path, monkeypatch, scenes=21)
    with pytest.raises(ValueError, match="judge"):
        measure(lambda *_: (False, SCENES[0]), tmp_path, monkeypatch, classes=())
