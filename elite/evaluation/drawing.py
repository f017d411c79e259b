"""How pictures of an evaluation are drawn: the settings all methods share, and the methods that learn nothing for long.

A method draws some prompts of one subject from given seeds. Competitors that are trained for each subject stand in
`elite.evaluation.competitors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from elite.evaluation.subjects import EvaluationSubject, fill
from elite.prompts import PLACEHOLDER, word_embeddings

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL.Image import Image

    from elite.adapter import EliteAdapter
    from elite.concept import Concept
    from elite.pipeline import ElitePipeline

PHOTO = "a photo of a {}"


@dataclass(frozen=True)
class Drawing:
    """What all methods of a comparison share.

    Attributes:
        num_inference_steps: denoising steps; the paper takes 100.
        guidance_scale: of classifier-free guidance.
        scheduler: the name of another sampler than the model's own, for the record: who loads a pipeline sets it.
        seed: a picture's noise depends on it, the subject, the prompt and the picture's number, and on no method.

    Raises:
        ValueError: for a number of steps below 1, or a guidance scale that is not finite.
    """

    num_inference_steps: int = 25
    guidance_scale: float = 5.0
    scheduler: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}.")
        if not -1e6 < self.guidance_scale < 1e6:
            raise ValueError(f"guidance_scale must be a finite number, got {self.guidance_scale}.")

    def picture_seed(self, subject: int, prompt: int, picture: int) -> int:
        """The seed of one picture, by the subject's, prompt's and picture's numbers (each below 1,000)."""
        return ((self.seed * 1000 + subject) * 1000 + prompt) * 1000 + picture

    def draw(
        self, pipeline: StableDiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[Image]:
        """Pictures of prompts in one batch, each from noise of its own, drawn on the CPU so that no device changes it.

        Args:
            pipeline: what draws.
            prompts: texts as the pipeline takes them.
            seeds: one for each.
            **options: more arguments of the pipeline.

        Returns:
            RGB pictures.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        mine = {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}
        return pipeline(list(prompts), generator=generators, **mine, **options).images


class Method(Protocol):
    """What is compared: something that draws a subject.

    Attributes:
        name: without blanks; it names folders and rows.
    """

    name: str

    def settings(self) -> Mapping[str, Any]:
        """Everything that decides its pictures apart from `Drawing` and weights, as plain values."""

    def draw(
        self, subject: EvaluationSubject, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing
    ) -> list[Image]:
        """Pictures of prompts with "{}" for the subject, one seed each."""


@dataclass
class Elite:
    """ELITE: the given picture is encoded once, and its concept draws.

    Attributes:
        pipeline: with an adapter attached.
        name: of the row.
        fusion_weight: λ of Eq. 6; 0.6 is the paper's for editing prompts.
        words: which words stand in the prompt, see `prompts.select_words`; "class" puts the class name there instead.
        reweighting: whether Eq. 8 is in force.
        adapter: the adapter that draws, where it is another than the pipeline's own; it is attached when it is needed.
        variant: name of that adapter, for the record.
    """

    pipeline: ElitePipeline
    name: str = "elite"
    fusion_weight: float = 0.6
    words: str = "w0"
    reweighting: bool = True
    adapter: EliteAdapter | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        if self.adapter is None:
            self.adapter = self.pipeline.adapter
        self._concepts: dict[str, Concept] = {}

    def settings(self) -> dict[str, Any]:
        """The arguments of the pipeline, and whose adapter it is."""
        return {**self._options, "variant": self.variant}

    @property
    def _options(self) -> dict[str, Any]:
        return {"fusion_weight": self.fusion_weight, "words": self.words, "reweighting": self.reweighting}

    def concept(self, subject: EvaluationSubject) -> Concept:
        """The subject's concept, encoded on first use."""
        self._attach()
        if subject.name not in self._concepts:
            concept = self.pipeline.encode_concept(subject.given.image, subject.given.mask)
            if self.words == "class":
                encoder, tokenizer = self.pipeline.text_encoder, self.pipeline.tokenizer
                named = word_embeddings(encoder, tokenizer, subject.class_name)
                concept = replace(concept, words=named.to(concept.words))
            self._concepts[subject.name] = concept
        return self._concepts[subject.name]

    def _attach(self) -> None:
        if self.adapter is not None and self.pipeline.adapter is not self.adapter:
            self.pipeline.attach_adapter(self.adapter)

    def draw(
        self, subject: EvaluationSubject, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing
    ) -> list[Image]:
        """Pictures of prompts with "{}" for the subject, one seed each."""
        self._attach()
        options = {**self._options, "words": "all" if self.words == "class" else self.words}
        mark = self.pipeline.adapter.config.placeholder or PLACEHOLDER
        texts = [prompt.format(mark) for prompt in prompts]
        return drawing.draw(self.pipeline, texts, seeds, concept=self.concept(subject), **options)


@dataclass
class PlainText:
    """A floor: the base model, told no more than the class ("a dog in the jungle")."""

    pipeline: StableDiffusionPipeline
    name: str = "text"

    def settings(self) -> dict[str, Any]:
        """Nothing beyond the drawing's."""
        return {}

    def draw(
        self, subject: EvaluationSubject, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing
    ) -> list[Image]:
        """Pictures of prompts with the class name for "{}"."""
        return drawing.draw(self.pipeline, [fill(prompt, subject.class_name) for prompt in prompts], seeds)


@dataclass
class Anchor:
    """A row that no model draws: what a score reaches without drawing anything, or could reach at best.

    Attributes:
        name: "copy" repeats the given picture whatever the prompt says, a trap that wins image scores; "rendering" has
            the miniature's world render the subject as the prompt says, the ceiling; "other" renders another subject of
            its class, a floor.

    Raises:
        ValueError: for another name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in ANCHORS:
            raise ValueError(f"an anchor is one of {', '.join(ANCHORS)}, got {self.name!r}.")

    def settings(self) -> dict[str, Any]:
        """Nothing: an anchor depends on the subject alone."""
        return {}

    def draw(
        self, subject: EvaluationSubject, prompts: Sequence[str], seeds: Sequence[int], drawing: Drawing
    ) -> list[Image]:
        """One picture for each prompt.

        Raises:
            ValueError: when photographs would have to be rendered.
        """
        if self.name == "copy":
            return [subject.given.image] * len(prompts)
        render = subject.render if self.name == "rendering" else subject.render_other
        if render is None:
            raise ValueError(f"method {self.name} renders subjects, which only the miniature's own world can do.")
        return [render(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]


ANCHORS = ("copy", "rendering", "other")


def described(drawing: Drawing, method: Method) -> dict[str, Any]:
    """Everything that decides a method's pictures apart from weights, for a file."""
    return {"drawing": asdict(drawing), "method": {"name": method.name, **method.settings()}}
