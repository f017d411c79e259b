"""EliteAdapter: everything ELITE adds to a base model, as one diffusers model that is saved and loaded on its own.

Two mappers (Eq. 3, 5) and, for each cross attention layer, global and local keys and values (Eq. 6).
"""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from ._diffusers import ConfigMixin, FrozenDict, ModelMixin, register_to_config
from .attention import EliteAttnProcessor, cross_attention_layers, install_processors, remove_processors
from .attention.active import base_layer
from .features import check_layers, default_layers
from .io.content_id import ContentId, content_hash
from .io.files import read_json
from .io.fingerprint import fingerprint
from .io.hub import find_file
from .io.tensors import check_finite, check_names_and_shapes, read_safetensors
from .mapping import GlobalMapper, LocalMapper
from .prompts import PLACEHOLDER

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPVisionModelWithProjection

CONFIG_NAME = "config.json"
WEIGHTS_NAME = SAFETENSORS_WEIGHTS_NAME
OLD_WEIGHTS_NAME = "elite_adapter.safetensors"  # of adapters saved by 0.1
_HUB = ("token", "cache_dir", "local_files_only")
# what the values of a configuration must be
_KINDS: dict[str, tuple[type, ...]] = {
    "input_dim": (int,),
    "output_dim": (int,),
    "layers": (list, tuple),
    "attention": (dict,),
    "hidden_dim": (int,),
    "output_scale": (float, int),
    "local_output_scale": (float, int),
    "placeholder": (str,),
    "image_encoder": (str,),
}

_NEEDED = {"input_dim", "output_dim", "layers", "attention"}


class EliteConfig(FrozenDict):
    """What is needed to build an adapter again: the arguments of `EliteAdapter`, by name, also as attributes."""

    @property
    def num_words(self) -> int:
        """Number of words N: one for each layer."""
        return len(self["layers"])


def is_adapter_config(config: Mapping[str, Any]) -> bool:
    """Whether the contents of a ``config.json`` are an adapter's, of this or an earlier release."""
    return config.get("_class_name", "EliteAdapter") == "EliteAdapter" and set(config) >= _NEEDED


def check_config(config: Mapping[str, Any], source: str | Path = "the configuration") -> None:
    """Refuse a configuration that is not an adapter's.

    Raises:
        ValueError: naming the value.
    """
    if not is_adapter_config(config):
        raise ValueError(f"{source} is not the configuration of an ELITE adapter.")
    for name, kinds in _KINDS.items():
        if name in config and not isinstance(config[name], kinds):
            raise ValueError(f"{source} has {name} = {config[name]!r}, expected a value of type {kinds[0].__name__}.")
    for name, items in (("layers", config["layers"]), ("attention", config["attention"].values())):
        odd = [item for item in items if type(item) is not int]
        if odd:
            raise ValueError(f"{source} has {odd[0]!r} in {name}, expected whole numbers alone.")


def layer_key(name: str) -> str:
    """A layer's module name as the published files write it."""
    return name.replace(".", "_")


class EliteAdapter(ModelMixin, ConfigMixin):
    """Mappers and attention weights of ELITE; `for_models` makes one for a base model.

    Args:
        input_dim: width D of the image encoder.
        output_dim: width d of the text encoder, and of what the UNet attends to.
        layers: hidden states of the image encoder that are read, one word each; the first gives w0.
        attention: width of keys and values in each cross attention layer, by the layer's name with "_" for ".".
        hidden_dim: width of the mappers' MLPs.
        output_scale: constant factor on the words.
        local_output_scale: constant factor on the patch embeddings.
        placeholder: the placeholder the adapter was trained with.
        image_encoder: fingerprint of the image encoder it was made for; empty when not known.
        content_id: that of a saved adapter; see the property ``content_id``.
        weights_hash: hash of the saved weights, which tells a damaged file; the content id, unless they were cast.

    Raises:
        ValueError: for a value of another kind.
    """

    config_name = CONFIG_NAME

    @register_to_config
    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        layers: Sequence[int],
        attention: Mapping[str, int],
        hidden_dim: int = 1024,
        output_scale: float = 1.0,
        local_output_scale: float = 1.0,
        placeholder: str = PLACEHOLDER,
        image_encoder: str = "",
        content_id: str = "",
        weights_hash: str = "",
    ) -> None:
        super().__init__()
        check_config(self.config)
        mlps = {"hidden_dim": hidden_dim}
        self.global_mapper = GlobalMapper(input_dim, output_dim, len(layers), output_scale=output_scale, **mlps)
        self.local_mapper = LocalMapper(input_dim, output_dim, len(layers), output_scale=local_output_scale, **mlps)
        self.processors: Any = nn.ModuleDict(
            {key: EliteAttnProcessor(output_dim, inner) for key, inner in attention.items()}
        )
        self._unet: weakref.ref[nn.Module] | None = None
        self._content_id = ContentId()

    @property
    def config(self) -> EliteConfig:
        """The arguments it was made with."""
        found = {name: self._internal_dict[name] for name in _KINDS}
        return EliteConfig({**found, "layers": tuple(found["layers"])})

    @property
    def content_id(self) -> str:
        """What tells this adapter from others: made when its weights change, kept when they are cast, moved or saved.

        Concepts carry it. Empty when not known, as for weights that are offloaded one by one.
        """
        return self._content_id.of(self)

    def forward(
        self, features: Sequence[Tensor], object_features: Sequence[Tensor] | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Words and patch embeddings of pictures (Eq. 3, 5).

        Args:
            features: of the pictures, a tensor (B, 1 + p², D) for each of its layers, deepest first.
            object_features: of the pictures' masked copies; ``features`` when left out.
            mask: (B, p², 1) in [0, 1]; patches outside the object become zero vectors.

        Returns:
            words (B, N, d) and patch embeddings (B, p², d).
        """
        dtype = next(self.global_mapper.parameters()).dtype  # training may keep it in float32
        whole = [feature.to(dtype) for feature in features]
        part = whole if object_features is None else [feature.to(dtype) for feature in object_features]
        return self.global_mapper(whole), self.local_mapper(part, mask)

    @classmethod
    def for_models(
        cls,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        image_encoder: CLIPVisionModelWithProjection,
        layers: Sequence[int] | None = None,
        num_words: int | None = None,
        hidden_dim: int = 1024,
        output_scale: float = 1.0,
        local_output_scale: float = 1.0,
        placeholder: str = PLACEHOLDER,
        generator: torch.Generator | None = None,
    ) -> EliteAdapter:
        """A fresh adapter for a base model: random mappers, keys and values copied from the UNet.

        Args:
            unet: the base UNet.
            text_encoder: its text encoder.
            image_encoder: the CLIP image encoder to read pictures with.
            layers: hidden states to read; `default_layers` of the encoder's depth when left out.
            num_words: only that many of the default layers.
            hidden_dim: width of the MLPs.
            output_scale: constant factor on the words.
            local_output_scale: constant factor on the patch embeddings.
            placeholder: what stands for the subject in prompts.
            generator: source of the mappers' weights; torch's global one when left out.

        Returns:
            The adapter, not yet attached, in the UNet's device and type.

        Raises:
            ValueError: for an unknown layer, or a text encoder that does not fit the UNet.
        """
        depth = image_encoder.config.num_hidden_layers
        chosen = default_layers(depth) if layers is None else check_layers(tuple(layers), depth)
        if num_words is not None:
            if not 1 <= num_words <= len(chosen):
                raise ValueError(f"num_words must be in 1 to {len(chosen)}, the number of layers, got {num_words}.")
            chosen = chosen[:num_words]
        width = text_encoder.config.hidden_size
        attention = cross_attention_layers(unet)
        context = base_layer(next(iter(attention.values())).to_k).in_features
        if context != width:
            raise ValueError(f"text_encoder has width {width}, but the UNet attends to text of width {context}.")
        example = next(unet.parameters())
        config = dict(
            input_dim=image_encoder.config.hidden_size,
            output_dim=width,
            layers=chosen,
            attention={layer_key(name): base_layer(attn.to_k).out_features for name, attn in attention.items()},
            hidden_dim=hidden_dim,
            output_scale=output_scale,
            local_output_scale=local_output_scale,
            placeholder=placeholder,
            image_encoder=fingerprint([image_encoder]),
        )
        with torch.device(example.device):
            adapter = cls(**config)
        if generator is not None:
            _draw(adapter, generator)
        for name, attn in attention.items():
            adapter.processor(name).copy_base_weights(attn)
        return adapter.to(dtype=example.dtype)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast it, as any module: diffusers would warn of layers that must stay in float32, and it has none."""
        return nn.Module.to(self, *args, **kwargs)

    def attach(self, unet: UNet2DConditionModel) -> EliteAdapter:
        """Install the processors in a UNet, moved to its device and type; without conditioning nothing changes.

        Returns:
            The adapter itself.

        Raises:
            ValueError: when the UNet has other layers or widths, or processors with weights of their own.
        """
        layers = cross_attention_layers(unet)
        mine = set(self.processors.keys())
        if {layer_key(name) for name in layers} != mine:
            raise ValueError(
                f"unet has {len(layers)} cross attention layers that do not match this adapter's {len(mine)}: "
                "it was made for another base model."
            )
        for name, attn in layers.items():
            if _is_copy(attn.processor, self.processor(name)):  # it came with a copy of a UNet
                attn.set_processor(attn.processor.base)
        install_processors(unet, {name: self.processor(name) for name in layers})
        for name, attn in layers.items():
            weight = base_layer(attn.to_k).weight
            self.processor(name).to(weight.device, weight.dtype)
        self._unet = weakref.ref(unet)
        return self

    def detach(self) -> EliteAdapter:
        """Give the UNet its own processors back.

        Returns:
            The adapter itself.
        """
        unet = None if self._unet is None else self._unet()
        if unet is not None:
            mine = set(self.processors.values())
            if any(attn.processor in mine for attn in cross_attention_layers(unet).values()):  # not another adapter's
                remove_processors(unet)
        self._unet = None
        return self

    def processor(self, name: str) -> EliteAttnProcessor:
        """The processor of one cross attention layer, by the layer's name."""
        return cast("EliteAttnProcessor", self.processors[layer_key(name)])

    def global_parameters(self) -> list[nn.Parameter]:
        """What the global stage trains: M^g and K^g, V^g of every layer."""
        own = [layer for p in map(self.processor, self.processors) for layer in (p.to_k_global, p.to_v_global)]
        return [*self.global_mapper.parameters(), *(weight for layer in own for weight in layer.parameters())]

    def local_parameters(self) -> list[nn.Parameter]:
        """What the local stage trains: M^l and K^l, V^l of every layer."""
        own = [layer for p in map(self.processor, self.processors) for layer in (p.to_k_local, p.to_v_local)]
        return [*self.local_mapper.parameters(), *(weight for layer in own for weight in layer.parameters())]

    def made_by(self, image_encoder: nn.Module) -> dict[str, str]:
        """What a concept notes of its makers, to be told from those of others; empty texts where it is not known.

        Returns:
            "adapter" is the content id, "image_encoder" the fingerprint of that, and "encoder" the fingerprint of image
            encoder and mappers together, which is all that concepts of 0.1 have.
        """
        return {
            "adapter": self.content_id,
            "image_encoder": fingerprint([image_encoder]),
            "encoder": fingerprint([image_encoder, self.global_mapper, self.local_mapper]),
        }

    def to_json_string(self) -> str:
        """Its configuration as JSON, the layers in their own order."""
        value = json.loads(super().to_json_string())
        return json.dumps({**value, "attention": dict(self.config.attention)}, indent=2) + "\n"

    def save_pretrained(
        self, save_directory: str | Path, variant: str | None = None, push_to_hub: bool = False, **kwargs: Any
    ) -> Path:
        """Write ``config.json`` and one safetensors file, ready for the Hub; the configuration last.

        Args:
            save_directory: where; made when it does not exist.
            variant: part of the file's name, such as "fp16".
            push_to_hub: upload it too.
            **kwargs: for the upload, as ``ModelMixin``: ``repo_id``, ``token``, ``private``, ``commit_message``.

        Returns:
            The folder.

        Raises:
            OSError: when it cannot be written to.
            ValueError: when a weight is NaN or infinite, or safetensors are turned off.
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("safe_serialization must be True: an adapter is saved as safetensors alone.")
        folder, tensors = Path(save_directory), self.state_dict()
        check_finite(tensors, "this adapter")
        self.register_to_config(content_id=self.content_id, weights_hash=content_hash(tensors))
        folder.mkdir(parents=True, exist_ok=True)
        upload = {"push_to_hub": True, "repo_id": folder.name, **kwargs} if push_to_hub else {}
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as fresh:
            super().save_pretrained(fresh, variant=variant, max_shard_size="1TB", **upload)
            for path in sorted(Path(fresh).iterdir(), key=lambda path: path.name == CONFIG_NAME):
                path.replace(folder / path.name)
        (folder / OLD_WEIGHTS_NAME).unlink(missing_ok=True)  # of an adapter that is replaced
        return folder

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        revision: str | None = None,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> EliteAdapter:
        """Load an adapter written by `save_pretrained`, of this or an earlier release.

        Args:
            pretrained_model_name_or_path: a folder or a Hub repository.
            revision: commit of the repository.
            subfolder: folder within the source.
            **kwargs: as ``ModelMixin``: ``torch_dtype``, ``variant``, ``token``, ``cache_dir``, ``local_files_only``.

        Returns:
            The adapter, on the CPU, in the type of the file unless another is asked for.

        Raises:
            FileNotFoundError: when the source holds no adapter.
            ValueError: for a damaged file, NaN weights, or shapes that do not fit the configuration.
        """
        source, hub = pretrained_model_name_or_path, {name: kwargs.pop(name) for name in _HUB if name in kwargs}
        variant = kwargs.get("variant")
        name = WEIGHTS_NAME if variant is None else WEIGHTS_NAME.replace(".", f".{variant}.")
        config_path = find_file(source, CONFIG_NAME, revision, subfolder, **hub)
        weights_path = None if config_path is None else find_file(source, name, revision, subfolder, **hub)
        if config_path is not None and weights_path is None:
            weights_path = find_file(source, OLD_WEIGHTS_NAME, revision, subfolder, **hub)
        if config_path is None or weights_path is None:
            raise FileNotFoundError(
                f"{source} holds no ELITE adapter: {CONFIG_NAME} and {name} are needed"
                + (f" in its folder {subfolder}." if subfolder else ".")
            )
        config = read_json(config_path)
        check_config(config, config_path)
        tensors = read_safetensors(weights_path)[0]
        with torch.device("meta"):
            adapter = cls(**{key: value for key, value in config.items() if key in _KINDS})
        adapter.check_weights(tensors, weights_path, config.get("weights_hash", ""))
        kwargs.setdefault("torch_dtype", kwargs.pop("dtype", next(iter(tensors.values())).dtype))
        if weights_path.name == OLD_WEIGHTS_NAME:
            adapter.load_state_dict(tensors, assign=True)
            adapter.eval().to(kwargs["torch_dtype"])
        else:
            adapter = super().from_pretrained(config_path.parent, **kwargs)
        adapter._content_id.adopt(adapter, config.get("content_id") or content_hash(tensors))
        return adapter

    def check_weights(self, tensors: Mapping[str, Tensor], source: str | Path, weights_hash: str = "") -> None:
        """Refuse tensors that are not an adapter like this.

        Args:
            tensors: by the names of ``state_dict``.
            source: where they come from, for messages.
            weights_hash: the `content_hash` they were saved with, if any.

        Raises:
            ValueError: for missing or unknown names, other shapes, values that are not finite, or another hash.
        """
        check_names_and_shapes(self.state_dict(), tensors, source)
        check_finite(tensors, source)
        if weights_hash and content_hash(tensors) != weights_hash:
            raise ValueError(f"{source} is damaged: its weights are not those that its {CONFIG_NAME} was written for.")


def _is_copy(processor: Any, mine: EliteAttnProcessor) -> bool:
    """Whether a layer's processor is another of ELITE's with the same weights: nothing is lost when it goes."""
    if processor is mine or not isinstance(processor, EliteAttnProcessor):
        return False
    pairs = zip(processor.parameters(), mine.parameters(), strict=True)
    return all(theirs.shape == ours.shape and torch.equal(theirs.to(ours), ours) for theirs, ours in pairs)


def _draw(adapter: EliteAdapter, generator: torch.Generator) -> None:
    """Draw the mappers' linear layers from ``generator`` with torch's default bounds, 1 / √(inputs)."""
    with torch.no_grad():
        for mapper in (adapter.global_mapper, adapter.local_mapper):
            for module in mapper.modules():
                if isinstance(module, nn.Linear):
                    bound = module.in_features**-0.5
                    for parameter in (module.weight, module.bias):
                        values = torch.rand(parameter.shape, generator=generator, device=generator.device)
                        parameter.copy_((values * 2 - 1) * bound)
