"""DreamBooth (Ruiz et al.): the whole model learns that a rare word before the class name is the subject.

Pictures of the class, drawn by the model beforehand, stand beside the subject's in every step, so that the class is not
forgotten. `DreamBoothLora` is the form in use today: it trains matrices of low rank in the attention layers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from elite.evaluation.competitors.base import PHOTO, Competitor, descend
from elite.evaluation.competitors.learned import Learned, on_cpu, swapped
from elite.evaluation.subjects import fill

if TYPE_CHECKING:
    from PIL.Image import Image

IDENTIFIER = "sks"  # of the paper's implementation
LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


class _Booth(Competitor):
    """What both forms share: the noun, and the loss with prior preservation."""

    def _noun(self, class_name: str) -> str:
        return f"{IDENTIFIER} {class_name}"

    def _losses(self, pictures: list[Image], class_name: str) -> tuple[Callable[..., Tensor], float]:
        """The loss of a step, as a function of UNet and text encoder, and the seconds its preparation took."""
        preserving, preparation = self._preserving(pictures, class_name)
        texts = [fill(PHOTO, noun) for noun in (self._noun(class_name), class_name)]
        ids = torch.cat([self._ids(text)[0] for text in texts])  # (2, L)

        def loss(unet: nn.Module, text_encoder: nn.Module) -> Tensor:
            text = text_encoder(ids)[0]  # (2, L, d)
            return preserving(unet, text[:1], text[1:])

        return loss, preparation


class DreamBooth(_Booth):
    """UNet and text encoder learn."""

    name = "dreambooth"

    def _stages(self, pictures: list[Image], class_name: str, steps: list[int]) -> Iterator[Learned]:
        loss, preparation = self._losses(pictures, class_name)
        parts = {"unet": self._unet()}
        text_encoder = self._text_encoder()
        if self.settings.train_text_encoder:
            parts["text_encoder"] = text_encoder
        named = {f"{part}.{name}": p for part, module in parts.items() for name, p in module.named_parameters()}
        for parameter in named.values():
            parameter.requires_grad_(True)
        trained = list(named.values())
        found = descend(trained, lambda: loss(parts["unet"], text_encoder), steps, self.settings, self.progress)
        for step, seconds in found:
            yield self._learned(class_name, step, seconds, preparation, on_cpu(named))

    @contextmanager
    def installed(self, learned: Learned) -> Iterator[str]:
        """Within this context the pipeline has the learnt weights."""
        with ExitStack() as stack:
            for part in ("unet", "text_encoder"):
                mine = {name: tensor for name, tensor in learned.tensors.items() if name.startswith(f"{part}.")}
                stack.enter_context(
                    swapped(getattr(self.pipeline, part), {k.removeprefix(f"{part}."): v for k, v in mine.items()})
                )
            yield self._noun(learned.class_name)


class DreamBoothLora(_Booth):
    """Matrices of low rank learn beside the attention layers of the UNet (PEFT)."""

    name = "dreambooth-lora"

    def _stages(self, pictures: list[Image], class_name: str, steps: list[int]) -> Iterator[Learned]:
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft import LoraConfig
        from peft.utils import get_peft_model_state_dict

        loss, preparation = self._losses(pictures, class_name)
        unet, text_encoder = self._unet(), self._text_encoder()
        rank = self.settings.rank
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)  # the first matrices are drawn
            unet.add_adapter(
                LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LORA_LAYERS))
            )
        trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        found = descend(trained, lambda: loss(unet, text_encoder), steps, self.settings, self.progress)
        for step, seconds in found:
            state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
            tensors = on_cpu({f"unet.{name}": tensor for name, tensor in state.items()})
            yield self._learned(class_name, step, seconds, preparation, tensors)

    @contextmanager
    def installed(self, learned: Learned) -> Iterator[str]:
        """Within this context the pipeline has the LoRA."""
        self.pipeline.load_lora_weights(dict(learned.tensors), adapter_name="subject")
        try:
            yield self._noun(learned.class_name)
        finally:
            self.pipeline.unload_lora_weights()
