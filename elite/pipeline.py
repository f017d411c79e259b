"""ElitePipeline: Stable Diffusion that draws a subject encoded from one picture."""

# No postponed annotations here: diffusers reads the types of the components from the signature of `__init__`.

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Optional, Self

import torch
from diffusers.utils import USE_PEFT_BACKEND, scale_lora_layers, unscale_lora_layers
from PIL.Image import Image
from torch import Tensor, nn

from ._defaults import FUSION_WEIGHT
from ._diffusers import (
    AutoencoderKL,
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    KarrasDiffusionSchedulers,
    PipelineImageInput,
    StableDiffusionPipeline,
    StableDiffusionSafetyChecker,
    UNet2DConditionModel,
)
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
from .io.fingerprint import fingerprint
from .io.tensors import check_finite
from .official import named_adapter, own_adapter
from .prompts import PLACEHOLDER, encode_prompts, select_words, tokenize

ADAPTER_FOLDER = "elite"


class ElitePipeline(StableDiffusionPipeline):
    """Stable Diffusion with an ELITE adapter.

    A folder of it is an ordinary ``StableDiffusionPipeline`` folder with an ``image_encoder/``, and the adapter in
    ``elite/``. Without ``concept`` it does what its base class does, to the bit.

    Example::

        pipe = ElitePipeline.from_pretrained("path/to/folder")
        dog = pipe.encode_concept("dog.jpg", mask="dog-mask.png")
        pipe("a S* in the snow", concept=dog, fusion_weight=0.6).images[0]

    Args:
        vae, text_encoder, tokenizer, unet, scheduler, safety_checker, feature_extractor, requires_safety_checker:
            as the base class.
        image_encoder: the CLIP image encoder that pictures are read with.
        adapter: attached to the UNet, see `attach_adapter`; without one the pipeline can only do what its base class
            does.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->adapter->unet->vae"
    _optional_components: ClassVar[list[str]] = [*StableDiffusionPipeline._optional_components, "adapter"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        safety_checker: StableDiffusionSafetyChecker,
        feature_extractor: CLIPImageProcessor,
        image_encoder: CLIPVisionModelWithProjection = None,
        adapter: Optional[EliteAdapter] = None,  # noqa: UP045 (older releases of diffusers do not know "|")
        requires_safety_checker: bool = True,
    ) -> None:
        super().__init__(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            requires_safety_checker=requires_safety_checker,
        )
        self.register_modules(adapter=None)
        if adapter is not None:
            self.attach_adapter(adapter)

    @property
    def has_adapter(self) -> bool:
        """Whether an adapter is attached."""
        return self.adapter is not None

    def needed_adapter(self) -> EliteAdapter:
        """The adapter.

        Raises:
            ValueError: when there is none.
        """
        if self.adapter is None:
            raise ValueError(
                'this pipeline has no ELITE adapter: give from_pretrained adapter="path", or adapter="init" for an '
                "untrained one, or call attach_adapter."
            )
        return self.adapter

    def attach_adapter(self, adapter: EliteAdapter) -> Self:
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
        before = {} if self.adapter is None else remove_processors(self.unet)
        try:
            adapter.attach(self.unet)
        except ValueError:
            restore_processors(self.unet, before)
            raise
        for mapper in (adapter.global_mapper, adapter.local_mapper):
            mapper.to(self.image_encoder.device, self.image_encoder.dtype)
        self.register_modules(adapter=adapter)
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
    ) -> Self:
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
            **kwargs: as the base class.

        Raises:
            RuntimeError: when the adapter's attention processors were replaced.
            OSError: when the folder cannot be written to.
        """
        folder, adapter = Path(save_directory), self.adapter
        if adapter is not None:
            check_processors(self.unet)
            folder.mkdir(parents=True, exist_ok=True)
            adapter.save_pretrained(folder / ADAPTER_FOLDER)
        # Or the UNet's file would carry weights of an adapter too: ours, or that of a pipeline with the same UNet.
        removed = {} if self.unet is None else remove_processors(self.unet)
        self.register_modules(adapter=None)  # a part that the base class, whose name is in the index, does not know
        try:
            super().save_pretrained(str(folder), **kwargs)
        finally:
            self.register_modules(adapter=adapter)
            restore_processors(self.unet, removed)

    def to_json_string(self) -> str:
        """The index of its parts, as its base class would write it: so diffusers loads a folder without ELITE."""
        index = {name: value for name, value in json.loads(super().to_json_string()).items() if name != "adapter"}
        return json.dumps({**index, "_class_name": StableDiffusionPipeline.__name__}, indent=2, sort_keys=True) + "\n"

    @contextmanager
    def _without_processors(self) -> Iterator[None]:
        """Within this context the adapter has no processors of its own: they are the UNet's, to be offloaded once."""
        adapter = self.adapter
        if adapter is None:
            yield
            return
        processors, adapter.processors = adapter.processors, nn.ModuleDict()
        try:
            yield
        finally:
            adapter.processors = processors

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Offload the parts module by module, as the base class."""
        with self._without_processors():
            super().enable_sequential_cpu_offload(*args, **kwargs)

    def enable_group_offload(self, *args: Any, **kwargs: Any) -> None:
        """Offload the parts in groups of modules, as the base class."""
        with self._without_processors():
            super().enable_group_offload(*args, **kwargs)

    def unload_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Unload LoRA weights, as the base class.

        Raises:
            RuntimeError: while a fused LoRA is part of the base model's keys or values beside an adapter.
        """
        if self.adapter is not None:
            for attn in cross_attention_layers(self.unet).values():
                if getattr(attn.to_k, "merged", False) or getattr(attn.to_v, "merged", False):
                    raise RuntimeError(
                        "unload_lora_weights cannot be used while a LoRA is fused: it counts for ELITE's keys and "
                        "values only while it is loaded; call unfuse_lora first, or keep it loaded."
                    )
        super().unload_lora_weights(*args, **kwargs)

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
        adapter = self.needed_adapter()
        concepts = encode_pictures(adapter, self.image_encoder, images, masks, mask_mode, self._execution_device)
        self.maybe_free_model_hooks()
        return concepts

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        height: int,
        width: int,
        callback_steps: int | None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        *,
        num_inference_steps: int | None = None,
        num_images_per_prompt: int | None = None,
        guidance_scale: float | None = None,
        clip_skip: int | None = None,
        concept: Concept | Sequence[Concept] | Mapping[str, Concept] | None = None,
        fusion_weight: float | Sequence[float] = FUSION_WEIGHT,
    ) -> None:
        """Refuse arguments of a call that cannot be used, before any work is done; they are those of ``__call__``.

        Raises:
            ValueError: naming the argument.
            RuntimeError: when a concept is given and the adapter's attention processors were replaced.
        """
        check_numbers(num_inference_steps, num_images_per_prompt, guidance_scale)
        if concept is not None:
            self.needed_adapter()
            check_processors(self.unet)
            fusion_weights(fusion_weight, len(check_prompts(prompt)))
            if prompt_embeds is not None:
                raise ValueError(
                    "prompt must be a text or a list of texts when a concept is given (not prompt_embeds)."
                )
            if clip_skip is not None:
                raise ValueError(
                    "clip_skip cannot be used with a concept: its words are trained for the last text layer."
                )
        super().check_inputs(
            prompt,
            height,
            width,
            callback_steps,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            ip_adapter_image,
            ip_adapter_image_embeds,
            callback_on_step_end_tensor_inputs,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 7.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int | None = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        ip_adapter_image: PipelineImageInput | None = None,
        ip_adapter_image_embeds: list[Tensor] | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: dict[str, Any] | None = None,
        guidance_rescale: float = 0.0,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        concept: Concept | Sequence[Concept] | Mapping[str, Concept] | None = None,
        fusion_weight: float | Sequence[float] = FUSION_WEIGHT,
        words: str | Sequence[int] = "w0",
        reweighting: bool = True,
        batchwide_maximum: bool = False,
        placeholder: str | None = None,
    ) -> Any:
        """Generate pictures, of a subject when a concept is given.

        Args:
            prompt: text or texts, each with the placeholder once when a concept is given.
            height, width, num_inference_steps, timesteps, sigmas, guidance_scale, negative_prompt,
                num_images_per_prompt, eta, generator, latents, prompt_embeds, negative_prompt_embeds,
                ip_adapter_image, ip_adapter_image_embeds, output_type, return_dict, cross_attention_kwargs,
                guidance_rescale, clip_skip, callback_on_step_end, callback_on_step_end_tensor_inputs: as the base
                class.
            concept: a concept for all prompts, a list with one for each, or a mapping from placeholders to concepts.
            fusion_weight: λ of Eq. 6, one number or one for each prompt: 0.8 for "a photo of a S*", 0.6 for editing.
            words: which words stand in the prompt: "w0" … "w4", "all", or indexes.
            reweighting: whether local attention follows the primary word's map (Eq. 8).
            batchwide_maximum: the authors' maximum over the whole batch in Eq. 8.
            placeholder: what stands for the subject; the adapter's own when left out.

        Returns:
            As the base class.

        Raises:
            ValueError: for a prompt without placeholder or too long, a concept of another encoder, a number of steps
                or pictures below 1, or a fusion weight or guidance that is not finite.
            TypeError: for an unknown argument.
            RuntimeError: when the adapter's attention processors were replaced.
        """
        watched = list(callback_on_step_end_tensor_inputs or [])
        given = {
            "height": height,
            "width": width,
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "sigmas": sigmas,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images_per_prompt,
            "eta": eta,
            "generator": generator,
            "latents": latents,
            "negative_prompt_embeds": negative_prompt_embeds,
            "ip_adapter_image": ip_adapter_image,
            "ip_adapter_image_embeds": ip_adapter_image_embeds,
            "output_type": output_type,
            "return_dict": return_dict,
            "cross_attention_kwargs": cross_attention_kwargs,
            "guidance_rescale": guidance_rescale,
            "callback_on_step_end": callback_on_step_end,
            "callback_on_step_end_tensor_inputs": watched,
        }
        self.check_inputs(
            prompt,
            height or 0,  # the base class has sizes of its own for what is left out
            width or 0,
            None,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            ip_adapter_image,
            ip_adapter_image_embeds,
            watched,
            num_inference_steps=num_inference_steps,
            num_images_per_prompt=num_images_per_prompt,
            guidance_scale=guidance_scale,
            clip_skip=clip_skip,
            concept=concept,
            fusion_weight=fusion_weight,
        )
        if concept is None:
            return super().__call__(prompt, prompt_embeds=prompt_embeds, clip_skip=clip_skip, **given)
        prompts = check_prompts(prompt)
        text, asked = self._encode_prompts(
            prompts, concept, fusion_weight, words, placeholder, num_images_per_prompt or 1, cross_attention_kwargs
        )
        asked = replace(asked, reweighting=reweighting, batchwide_maximum=batchwide_maximum)
        if isinstance(negative_prompt, str):
            given["negative_prompt"] = [negative_prompt] * len(prompts)
        # What a batch of the UNet is may change from step to step: a callback may turn guidance off.
        with condition(self.unet, asked, guided=lambda: self.do_classifier_free_guidance):
            return super().__call__(prompt_embeds=text, **given)

    def _encode_prompts(
        self,
        prompts: list[str],
        concept: Concept | Sequence[Concept] | Mapping[str, Concept],
        fusion_weight: float | Sequence[float],
        words: str | Sequence[int],
        placeholder: str | None,
        count: int,
        cross_attention_kwargs: Mapping[str, Any] | None,
    ) -> tuple[Tensor, Conditioning]:
        """Text features of the prompts (B, L, d), and the conditioning of their B · count pictures."""
        adapter = self.needed_adapter()
        chosen, marks = assign_concepts(prompts, concept, placeholder or adapter.config.placeholder or PLACEHOLDER)
        distinct = {id(item): item for item in chosen}
        makers = adapter.made_by(self.image_encoder)
        for item in distinct.values():
            item.check_makers(makers)
        weight = fusion_weights(fusion_weight, len(prompts))
        here = {key: item.to(self._execution_device) for key, item in distinct.items()}
        chosen = [here[id(item)] for item in chosen]
        injected = select_words(torch.stack([item.words for item in chosen]), words)  # (B, n, d)
        prompts = self.maybe_convert_prompt(prompts, self.tokenizer)  # tokens of a textual inversion
        tokenized = tokenize(self.tokenizer, prompts, marks, num_words=injected.shape[1])
        with self._text_lora_scale(cross_attention_kwargs):
            text = encode_prompts(self.text_encoder, tokenized, injected)
        # Pictures of one prompt stand together (a a b b), as the base class repeats its prompt embeddings.
        return text, Conditioning(
            patch_embeddings=torch.stack([item.patch_embeddings for item in chosen]).repeat_interleave(count, dim=0),
            word_index=tokenized.word_index.repeat_interleave(count, dim=0).to(self._execution_device),
            fusion_weight=weight.repeat_interleave(count) if isinstance(weight, Tensor) else weight,
        )

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
