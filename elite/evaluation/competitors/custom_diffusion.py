"""Custom Diffusion (Kumari et al.): a new word, and the keys and values of cross attention.

diffusers' own processor trains them; what `unet.load_attn_procs` is documented to load does not come back, without an
error. So the matrices are kept by the names of the layers they belong to, and put into these layers to draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elite.attention import cross_attention_layers
from elite.evaluation.competitors.base import PHOTO, Competitor, descend
from elite.evaluation.competitors.learned import Learned, on_cpu, swapped
from elite.evaluation.competitors.new_word import NewWord
from elite.evaluation.subjects import fill
from elite.prompts import word_embeddings

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from PIL.Image import Image

TOKEN = "<new1>"
START = "ktn"  # the rare word that the new one begins as, as in the authors' scripts


class CustomDiffusion(Competitor):
    """The new word stands before the class name; pictures of the class keep the class what it is."""

    name = "custom-diffusion"

    def _stages(self, pictures: list[Image], class_name: str, steps: list[int]) -> Iterator[Learned]:
        preserving, preparation = self._preserving(pictures, class_name)
        unet, text_encoder = self._unet(), self._text_encoder()
        matrices = _train_keys_and_values(unet)
        word = NewWord(text_encoder, word_embeddings(text_encoder, self.pipeline.tokenizer, START)[0])
        ids, _ = self._ids(PHOTO.format(f"{{}} {class_name}"), word.token)
        class_ids, _ = self._ids(fill(PHOTO, class_name))

        def loss() -> Tensor:
            return preserving(unet, word.encode(ids), word.encode(class_ids))

        trained = [word.parameter, *matrices.values()]
        for step, seconds in descend(trained, loss, steps, self.settings, self.progress):
            tensors = on_cpu({"word": word.embedding(), **{f"unet.{name}": p for name, p in matrices.items()}})
            yield self._learned(class_name, step, seconds, preparation, tensors)

    @contextmanager
    def installed(self, learned: Learned) -> Iterator[str]:
        """Within this context the pipeline has the learnt keys and values, and knows the new word."""
        matrices = {k.removeprefix("unet."): v for k, v in learned.tensors.items() if k.startswith("unet.")}
        with swapped(self.pipeline.unet, matrices):
            self.pipeline.load_textual_inversion({TOKEN: learned.tensors["word"]}, token=TOKEN)
            try:
                yield f"{TOKEN} {learned.class_name}"
            finally:
                self.pipeline.unload_textual_inversion(TOKEN)


def _train_keys_and_values(unet: UNet2DConditionModel) -> dict[str, nn.Parameter]:
    """Install diffusers' processors with keys and values of their own in attn2, and give these, by the UNet's names."""
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0

    found = {}
    for name, attn in cross_attention_layers(unet).items():
        key, value = attn.to_k.weight, attn.to_v.weight
        processor = CustomDiffusionAttnProcessor2_0(
            train_kv=True, train_q_out=False, hidden_size=key.shape[0], cross_attention_dim=key.shape[1]
        ).to(key.device, key.dtype)
        with torch.no_grad():
            processor.to_k_custom_diffusion.weight.copy_(key)
            processor.to_v_custom_diffusion.weight.copy_(value)
        attn.set_processor(processor)
        found[f"{name}.to_k.weight"] = processor.to_k_custom_diffusion.weight
        found[f"{name}.to_v.weight"] = processor.to_v_custom_diffusion.weight
    return found
