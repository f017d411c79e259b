"""EliteAdapter: everything ELITE adds to a base model, as one module that is saved and loaded on its own.

Two mappers (Eq. 3, 5) and, for each cross attention layer, global and local keys and values (Eq. 6).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import __version__
from .attention import cross_attention_layers, install_processors, remove_processors
from .attention.processor import EliteAttnProcessor, base_layer
from .features import check_layers, default_layers
from .io.files import read_json, write_json
from .io.fingerprint import fingerprint
from .io.hub import find_file
from .io.tensors import check_finite, check_names_and_shapes, read_safetensors, write_safetensors
from .mapping import GlobalMapper, LocalMapper
from .prompts import PLACEHOLDER

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "elite_adapter.safetensors"
FORMAT = "elite-adapter"
# what the values of a configuration file must be
_KINDS = {
    "input_dim": int,
    "output_dim": int,
    "layers": list,
    "attention": dict,
    "hidden_dim": int,
    "output_scale": float,
    "local_output_scale": float,
    "placeholder": str,
    "image_encoder": str,
}


@dataclass(frozen=True)
class EliteConfig:
    """What is needed to rebuild an adapter.

    Attributes:
        input_dim: width D of the image encoder.
        output_dim: width d of the text encoder, and of what the UNet attends to.
        layers: hidden states of the image encoder that are read, one word each; the first gives w0.
        attention: width of keys and values in each cross attention layer, by the layer's name with "_" for ".".
        hidden_dim: width of the mappers' MLPs.
        output_scale: constant factor on the words.
        local_output_scale: constant factor on the patch embeddings.
        placeholder: the placeholder the adapter was trained with.
        image_encoder: fingerprint of the image encoder it was made for; empty when not known.
    """

    input_dim: int
    output_dim: int
    layers: tuple[int, ...]
    attention: Mapping[str, int] = field(default_factory=dict)
    hidden_dim: int = 1024
    output_scale: float = 1.0
    local_output_scale: float = 1.0
    placeholder: str = PLACEHOLDER
    image_encoder: str = ""

    @property
    def num_words(self) -> int:
        """Number of words N: one for each layer."""
        return len(self.layers)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], source: str | Path) -> EliteConfig:
        """A config from the dictionary of a file.

        Raises:
            ValueError: when it is not that of an adapter.
        """
        known = {f.name for f in fields(cls)}
        missing = {"input_dim", "output_dim", "layers", "attention"} - set(value)
        if value.get("format") != FORMAT or missing:
            raise ValueError(f"{source} is not the configuration of an ELITE adapter.")
        for name, kind in _KINDS.items():
            if name in value and not isinstance(value[name], (int, float) if kind is float else kind):
                raise ValueError(f"{source} has {name} = {value[name]!r}, expected a value of type {kind.__name__}.")
        for name, items in (("layers", value["layers"]), ("attention", value["attention"].values())):
            odd = [item for item in items if type(item) is not int]
            if odd:
                raise ValueError(f"{source} has {odd[0]!r} in {name}, expected whole numbers alone.")
        chosen = {key: item for key, item in value.items() if key in known}
        return cls(**{**chosen, "layers": tuple(value["layers"])})


def layer_key(name: str) -> str:
    """A layer's module name as the published files write it."""
    return name.replace(".", "_")


class EliteAdapter(nn.Module):
    """Mappers and attention weights of ELITE.

    Args:
        config: shapes and constants; `for_models` makes it from a base model.
    """

    def __init__(self, config: EliteConfig) -> None:
        super().__init__()
        self.config = config
        mlps = {"hidden_dim": config.hidden_dim}
        self.global_mapper = GlobalMapper(
            config.input_dim, config.output_dim, config.num_words, output_scale=config.output_scale, **mlps
        )
        self.local_mapper = LocalMapper(
            config.input_dim, config.output_dim, config.num_words, output_scale=config.local_output_scale, **mlps
        )
        self.processors = nn.ModuleDict(
            {key: EliteAttnProcessor(config.output_dim, inner) for key, inner in config.attention.items()}
        )
        self._unet: weakref.ref[nn.Module] | None = None

    @classmethod
    def for_models(
        cls,
        unet: nn.Module,
        text_encoder: nn.Module,
        image_encoder: nn.Module,
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
        config = EliteConfig(
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
            adapter = cls(config)
        if generator is not None:
            _draw(adapter, generator)
        for name, attn in attention.items():
            adapter.processors[layer_key(name)].copy_base_weights(attn)
        return adapter.to(dtype=example.dtype)

    def attach(self, unet: nn.Module) -> EliteAdapter:
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
        install_processors(unet, {name: self.processors[layer_key(name)] for name in layers})
        for name, attn in layers.items():
            weight = base_layer(attn.to_k).weight
            self.processors[layer_key(name)].to(weight.device, weight.dtype)
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

    def global_parameters(self) -> list[nn.Parameter]:
        """What the global stage trains: M^g and K^g, V^g of every layer."""
        own = [layer for p in self.processors.values() for layer in (p.to_k_global, p.to_v_global)]
        return [*self.global_mapper.parameters(), *(layer.weight for layer in own)]

    def local_parameters(self) -> list[nn.Parameter]:
        """What the local stage trains: M^l and K^l, V^l of every layer."""
        own = [layer for p in self.processors.values() for layer in (p.to_k_local, p.to_v_local)]
        return [*self.local_mapper.parameters(), *(layer.weight for layer in own)]

    def encoder_id(self, image_encoder: nn.Module) -> str:
        """Fingerprint of all that turns a picture into a concept: image encoder and mappers."""
        return fingerprint([image_encoder, self.global_mapper, self.local_mapper])

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``config.json`` and ``elite_adapter.safetensors``, ready for the Hub.

        Args:
            folder: where; made when it does not exist.

        Returns:
            The folder.

        Raises:
            OSError: when it cannot be written to.
            ValueError: when a weight is NaN or infinite.
        """
        folder = Path(folder)
        tensors = self.state_dict()
        check_finite(tensors, "this adapter")
        write_safetensors(folder / WEIGHTS_NAME, tensors)
        value = {"format": FORMAT, "format_version": 1, "elite_version": __version__, **asdict(self.config)}
        write_json(folder / CONFIG_NAME, value)
        return folder

    @classmethod
    def from_pretrained(
        cls, source: str | Path, revision: str | None = None, subfolder: str | None = None, **hub: Any
    ) -> EliteAdapter:
        """Load an adapter written by `save_pretrained`.

        Args:
            source: a folder or a Hub repository.
            revision: commit of the repository.
            subfolder: folder within the source.
            **hub: as `files.find_file`: ``token``, ``cache_dir``, ``local_files_only``.

        Returns:
            The adapter, on the CPU, in the type of the file.

        Raises:
            FileNotFoundError: when the source holds no adapter.
            ValueError: for NaN weights, or shapes that do not fit the configuration.
        """
        config_path = find_file(source, CONFIG_NAME, revision, subfolder, **hub)
        weights_path = find_file(source, WEIGHTS_NAME, revision, subfolder, **hub)
        if config_path is None or weights_path is None:
            raise FileNotFoundError(
                f"{source} holds no ELITE adapter: {CONFIG_NAME} and {WEIGHTS_NAME} are needed"
                + (f" in its folder {subfolder}." if subfolder else ".")
            )
        config = EliteConfig.from_json(read_json(config_path), config_path)
        with torch.device("meta"):
            adapter = cls(config)
        adapter.load_weights(read_safetensors(weights_path)[0], weights_path)
        return adapter

    def load_weights(self, tensors: Mapping[str, Tensor], source: str | Path) -> None:
        """Take the tensors of a file, after checking all of them.

        Raises:
            ValueError: for missing or unknown names, other shapes, or values that are not finite.
        """
        check_names_and_shapes(self.state_dict(), tensors, source)
        check_finite(tensors, source)
        self.load_state_dict(tensors, assign=True)


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
