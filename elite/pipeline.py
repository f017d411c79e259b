"""ElitePipeline: Stable Diffusion that draws a subject encoded from one picture."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from torch import Tensor

from ._diffusers import StableDiffusionPipeline
from ._inputs import check_numbers, check_prompts, fusion_weights
from .adapter import EliteAdapter
from .attention import (
    Conditioning,
    check_processors,
    condition,
    cross_attention_layers,
    remove_processors,
    restore_processors,
)
from .concept import Concept, assign_concepts
from .encoding import encode_pictures
from .features import check_layers
from .io.files import read_json, write_json
from .io.fingerprint import fingerprint
from .io.tensors import check_finite
from .official import named_adapter, own_adapter
from .prompts import PLACEHOLDER, encode_prompts, select_words, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

ADAPTER_FOLDER = "elite"
_BASE_SIGNATURE = inspect.signature(StableDiffusionPipeline.__call__)


class ElitePipeline(StableDiffusionPipeline):
    """Stable Diffusion with an ELITE adapter.

    A folder of it is an ordinary ``StableDiffusionPipeline`` folder with an ``image_encoder/``, and the adapter in
    ``elite/``. Without ``concept`` it does what its base class does, to the bit.

    Example::

        pipe = ElitePipeline.from_pretrained("path/to/folder")
        dog = pipe.encode_concept("dog.jpg", mask="dog-mask.png")
        pipe("a S* in the snow", concept=dog, fusion_weight=0.6).images[0]
    """

    _adapter: EliteAdapter | None = None

    @property
    def adapter(self) -> EliteAdapter:
        """The attached adapter.

        Raises:
            ValueError: when there is none.
        """
        if self._adapter is None:
            raise ValueError(
                'this pipeline has no ELITE adapter: give from_pretrained adapter="path", or adapter="init" for an '
                "untrained one, or call attach_adapter."
            )
        return self._adapter

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is attached."""
        return self._adapter is not None

    def attach_adapter(self, adapter: EliteAdapter) -> ElitePipeline:
        """Use an adapter, in place of the one before.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: when it does not fit the UNet, text encoder or image encoder.
        """
        self._check_image_encoder()
        config, vision = adapter.config, self.image_encoder.config
        check_layers(config.layers, vision.num_hidden_layers)
        for what, mine, theirs in (
            ("image encoder", vision.hidden_size, config.input_dim),
            ("text encoder", self.text_encoder.config.hidden_size, config.output_dim),
        ):
            if mine != theirs:
                raise ValueError(f"the adapter reads an {what} of width {theirs}, this pipeline's has {mine}.")
        here = fingerprint([self.image_encoder]) if config.image_encoder else ""
        if here and here != config.image_encoder:  # weights that are offloaded one by one have none
            raise ValueError(
                "the adapter was trained with another image_encoder of the same shape: its words would mean nothing "
                f"here (it was made for {config.image_encoder}, this pipeline's is {here})."
            )
        before = {} if self._adapter is None else remove_processors(self.unet)
        try:
            adapter.attach(self.unet)
        except ValueError:
            restore_processors(self.unet, before)
            raise
        self._adapter = adapter
        self._move_mappers()
        return self

    def _check_image_encoder(self) -> None:
        if self.image_encoder is None:
            raise ValueError("image_encoder is missing: ELITE reads pictures with a CLIP image encoder; load one.")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        adapter: EliteAdapter | str | Path | None = None,
        adapter_revision: str | None = None,
        **kwargs: Any,
    ) -> ElitePipeline:
        """Load a base model and its adapter.

        Args:
            pretrained_model_name_or_path: a folder, or a Hub repository (pin it with ``revision``).
            adapter: None takes the folder's own ``elite/`` when it has one; a path or repository holds an adapter or
                the authors' two files; "init" makes an untrained one.
            adapter_revision: commit of the adapter's repository.
            **kwargs: as the base class: ``torch_dtype``, ``revision``, components such as ``image_encoder``; ``token``,
                ``cache_dir`` and ``local_files_only`` hold for the adapter too.

        Returns:
            The pipeline; without any adapter it can only do what the base class does.

        Raises:
            FileNotFoundError: when the adapter does not exist, or the Hub cannot be asked whether it does.
            ValueError: when it does not fit, or a weight is NaN or infinite.
        """
        pipe = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                check_finite(dict(part.named_parameters()), f"{name} of {pretrained_model_name_or_path}")
        hub = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
        if adapter is None:
            own = own_adapter(pretrained_model_name_or_path, ADAPTER_FOLDER, kwargs.get("revision"), **hub)
            if own is not None:
                pipe.attach_adapter(own)
        elif isinstance(adapter, EliteAdapter):
            pipe.attach_adapter(adapter)
        elif adapter == "init":
            pipe._check_image_encoder()
            pipe.attach_adapter(EliteAdapter.for_models(pipe.unet, pipe.text_encoder, pipe.image_encoder))
        else:
            pipe.attach_adapter(named_adapter(adapter, adapter_revision, **hub))
        return pipe

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the folder: the base model as its own class would, the adapter in ``elite/``.

        Args:
            save_directory: where; made when it does not exist.
            **kwargs: as the base class, but for ``push_to_hub``.

        Raises:
            ValueError: when it is asked to push to the Hub.
            RuntimeError: when the adapter's attention processors were replaced.
            OSError: when the folder cannot be written to.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError(
                "push_to_hub cannot be used, it would leave the adapter out: save the folder, then upload it by "
                "huggingface_hub.upload_folder(repo_id=..., folder_path=...)."
            )
        folder = Path(save_directory)
        if self._adapter is not None:
            check_processors(self.unet)
        folder.mkdir(parents=True, exist_ok=True)
        # Or the UNet's file would carry weights of an adapter too: ours, or that of a pipeline with the same UNet.
        removed = {} if self.unet is None else remove_processors(self.unet)
        try:
            super().save_pretrained(str(folder), **kwargs)
        finally:
            restore_processors(self.unet, removed)
        if self._adapter is not None:
            self._adapter.save_pretrained(folder / ADAPTER_FOLDER)
        index = folder / "model_index.json"
        # The base class's name, so that diffusers loads the folder without knowing about ELITE.
        write_json(index, {**read_json(index), "_class_name": StableDiffusionPipeline.__name__})

    def unload_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Unload LoRA weights, as the base class.

        Raises:
            RuntimeError: while a fused LoRA is part of the base model's keys or values beside an adapter.
        """
        if self._adapter is not None:
            for attn in cross_attention_layers(self.unet).values():
                if getattr(attn.to_k, "merged", False) or getattr(attn.to_v, "merged", False):
                    raise RuntimeError(
                        "unload_lora_weights cannot be used while a LoRA is fused: it counts for ELITE's keys and "
                        "values only while it is loaded; call unfuse_lora first, or keep it loaded."
                    )
        super().unload_lora_weights(*args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> ElitePipeline:
        """Move or cast all parts, the adapter too."""
        super().to(*args, **kwargs)
        self._move_mappers()
        return self

    def _move_mappers(self) -> None:
        if self._adapter is None or self.image_encoder is None:
            return
        for mapper in (self._adapter.global_mapper, self._adapter.local_mapper):
            mapper.to(self.image_encoder.device, self.image_encoder.dtype)

    @torch.no_grad()
    def encode_concept(
        self, image: str | Path | Image, mask: str | Path | Image | None = None, mask_mode: str = "nearest"
    ) -> Concept:
        """Encode one picture of a subject.

        Args:
            image: path or picture; the subject should fill most of it.
            mask: path or picture of the same size, white on the subject; None takes the whole picture.
            mask_mode: how the mask comes to the patch grid, "nearest" or "area"; see `features.patch_mask`.

        Returns:
            The concept, in the pipeline's device and type.

        Raises:
            FileNotFoundError: when a file does not exist.
            ValueError: when picture or mask cannot be used, or the pipeline has no adapter.
        """
        return self.encode_concepts([image], [mask], mask_mode)[0]

    @torch.no_grad()
    def encode_concepts(
        self,
        images: Sequence[str | Path | Image],
        masks: Sequence[str | Path | Image | None] | None = None,
        mask_mode: str = "nearest",
    ) -> list[Concept]:
        """Encode several pictures in one batch, one concept each; see `encode_concept`."""
        concepts = encode_pictures(self.adapter, self.image_encoder, images, masks, mask_mode, self._execution_device)
        self.maybe_free_model_hooks()
        return concepts

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *args: Any,
        concept: Concept | Sequence[Concept] | Mapping[str, Concept] | None = None,
        fusion_weight: float | Sequence[float] = 0.8,
        words: str | Sequence[int] = "w0",
        reweighting: bool = True,
        batchwide_maximum: bool = False,
        placeholder: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate pictures, of a subject when a concept is given.

        Args:
            prompt: text or texts, each with the placeholder once when a concept is given.
            *args: positional arguments of the base class after ``prompt``.
            concept: a concept for all prompts, a list with one for each, or a mapping from placeholders to concepts.
            fusion_weight: λ of Eq. 6, one number or one for each prompt: 0.8 for "a photo of a S*", 0.6 for editing.
            words: which words stand in the prompt: "w0" … "w4", "all", or indexes.
            reweighting: whether local attention follows the primary word's map (Eq. 8).
            batchwide_maximum: the authors' maximum over the whole batch in Eq. 8.
            placeholder: what stands for the subject; the adapter's own when left out.
            **kwargs: everything the base class takes.

        Returns:
            As the base class.

        Raises:
            ValueError: for a prompt without placeholder or too long, a concept of another encoder, a number of steps
                or pictures below 1, or a fusion weight or guidance that is not finite.
            TypeError: for an unknown argument.
            RuntimeError: when the adapter's attention processors were replaced.
        """
        given = _BASE_SIGNATURE.bind_partial(self, prompt, *args, **kwargs).arguments
        check_numbers(given)
        if concept is None:
            return super().__call__(prompt, *args, **kwargs)

        adapter = self.adapter
        check_processors(self.unet)
        prompts = check_prompts(prompt, given)
        chosen, marks = assign_concepts(prompts, concept, placeholder or adapter.config.placeholder or PLACEHOLDER)
        encoder_id = adapter.encoder_id(self.image_encoder)
        distinct = {id(item): item for item in chosen}
        for item in distinct.values():
            item.check_encoder(encoder_id)
        weight = fusion_weights(fusion_weight, len(prompts))
        here = {key: item.to(self._execution_device) for key, item in distinct.items()}
        chosen = [here[id(item)] for item in chosen]
        injected = select_words(torch.stack([item.words for item in chosen]), words)  # (B, n, d)
        prompts = self.maybe_convert_prompt(prompts, self.tokenizer)  # tokens of a textual inversion
        tokenized = tokenize(self.tokenizer, prompts, marks, num_words=injected.shape[1])

        with self._text_lora_scale(given.get("cross_attention_kwargs")):
            prompt_embeds = encode_prompts(self.text_encoder, tokenized, injected)
        if isinstance(given.get("negative_prompt"), str):
            given["negative_prompt"] = [given["negative_prompt"]] * len(prompts)
        # Pictures of one prompt stand together (a a b b), as the base class repeats its prompt embeddings.
        count = given.get("num_images_per_prompt") or 1
        asked = Conditioning(
            patch_embeddings=torch.stack([item.patch_embeddings for item in chosen]).repeat_interleave(count, dim=0),
            word_index=tokenized.word_index.repeat_interleave(count, dim=0).to(self._execution_device),
            fusion_weight=weight.repeat_interleave(count) if isinstance(weight, Tensor) else weight,
            reweighting=reweighting,
            batchwide_maximum=batchwide_maximum,
        )
        given |= {"prompt": None, "prompt_embeds": prompt_embeds}
        rest = {key: value for key, value in given.items() if key not in ("self", "kwargs")}
        with condition(self.unet, asked):
            return super().__call__(**rest, **given.get("kwargs", {}))

    @contextmanager
    def _text_lora_scale(self, cross_attention_kwargs: Mapping[str, Any] | None) -> Iterator[None]:
        """The base class scales LoRA layers of the text encoder while it encodes: so do we."""
        scale = (cross_attention_kwargs or {}).get("scale")
        if scale is None or not USE_PEFT_BACKEND:
            yield
            return
        scale_lora_layers(self.text_encoder, scale)
        try:
            yield
        finally:
            unscale_lora_layers(self.text_encoder, scale)
