"""Textual Inversion (Gal et al.): one new word, learnt by Eq. 1 with everything else frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from elite.evaluation.competitors.base import Competitor, Denoising, descend
from elite.evaluation.competitors.learned import Learned, on_cpu
from elite.evaluation.competitors.new_word import NewWord
from elite.prompts import TEMPLATES, word_embeddings

if TYPE_CHECKING:
    from PIL.Image import Image

TOKEN = "<subject>"


class TextualInversion(Competitor):
    """The word begins as the class's and learns under the method's own 27 templates."""

    name = "textual-inversion"

    def _stages(self, pictures: list[Image], class_name: str, steps: list[int]) -> Iterator[Learned]:
        generator = torch.Generator().manual_seed(self.settings.seed)
        unet, text_encoder = self._unet(), self._text_encoder()
        start = word_embeddings(text_encoder, self.pipeline.tokenizer, class_name)[0]
        word = NewWord(text_encoder, start)
        loss = Denoising(self.pipeline.scheduler, self._moments(pictures), generator)

        def next_loss() -> torch.Tensor:
            template = TEMPLATES[int(torch.randint(len(TEMPLATES), (), generator=generator))]
            return loss(unet, word.encode(self._ids(template, word.token)[0]), self.settings.batch_size)

        for step, seconds in descend([word.parameter], next_loss, steps, self.settings, self.progress):
            yield self._learned(class_name, step, seconds, 0.0, on_cpu({"word": word.embedding()}))

    @contextmanager
    def installed(self, learned: Learned) -> Iterator[str]:
        """Within this context the pipeline knows the new word."""
        self.pipeline.load_textual_inversion({TOKEN: learned.tensors["word"]}, token=TOKEN)
        try:
            yield TOKEN
        finally:
            self.pipeline.unload_textual_inversion(TOKEN)
