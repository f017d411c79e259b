"""The variants of Tables 1 and 4 and of Fig. 17: adapters that were trained otherwise, at one equal, short length.

They are compared with each other and with a control that was trained like ELITE, and with nothing else. What a variant
did not train is the base model's (keys and values) or unused (a mapper), so only the trained halves are kept, in half
precision. ``python -m elite.evaluation.variants FOLDER`` bundles the adapters of a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import Tensor

from elite.io.tensors import check_finite, read_safetensors, write_safetensors

if TYPE_CHECKING:
    from elite.adapter import EliteAdapter
    from elite.pipeline import ElitePipeline

FOLDER = Path(__file__).parent / "weights"
FORMAT = "elite-variant"
OPTIONS = ("layers", "hidden_dim", "output_scale", "local_output_scale", "placeholder")  # of `EliteAdapter.for_models`


@dataclass(frozen=True)
class Variant:
    """One variant.

    Attributes:
        half: what was trained last, "global" or "local": what its file holds.
        shows: what it is, in words.
        begins_with: the variant whose trained half it goes on from.
    """

    half: str
    shows: str
    begins_with: str | None = None


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "single-word": Variant("global", "one word from the deepest layer"),
        "single-layer": Variant("global", "five words, all from the deepest layer"),
        "first": Variant("global", "five words from five layers, the deepest first: ELITE's own global stage"),
        "middle": Variant("global", "five words from five layers, the deepest third"),
        "last": Variant("global", "five words from five layers, the deepest last"),
        "control": Variant("local", "ELITE's own local stage beside the words of `first`", "first"),
        "no-global": Variant("local", "a local stage beside the class word, without a global stage (Fig. 17)"),
    }
)


class MissingVariantError(FileNotFoundError):
    """A variant whose file is not there."""


def half_names(adapter: EliteAdapter, half: str) -> list[str]:
    """The names of what one stage trains, in the adapter's ``state_dict``."""
    own = adapter.global_parameters() if half == "global" else adapter.local_parameters()
    mine = {id(parameter) for parameter in own}
    return [name for name, parameter in adapter.named_parameters() if id(parameter) in mine]


def save_variant(name: str, adapter: EliteAdapter, folder: Path = FOLDER) -> Path:
    """Write the trained half of a variant in half precision; returns the file's path.

    Args:
        name: one of `VARIANTS`.
        adapter: the trained adapter.
        folder: of all variants.

    Raises:
        ValueError: for an unknown name, or a weight that is not finite in half precision.
    """
    chosen = variant(name)
    state = adapter.state_dict()
    tensors = {key: state[key].detach().half() for key in half_names(adapter, chosen.half)}
    check_finite(tensors, f"variant {name}")
    options = {key: getattr(adapter.config, key) for key in OPTIONS}
    metadata = {"format": FORMAT, "name": name, "options": json.dumps({**options, "layers": list(options["layers"])})}
    path = folder / f"{name}.safetensors"
    write_safetensors(path, tensors, metadata)
    return path


def variant(name: str) -> Variant:
    """A variant by its name.

    Raises:
        ValueError: for another name.
    """
    if name not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {name!r}.")
    return VARIANTS[name]


def load_variant(name: str, pipeline: ElitePipeline, folder: Path = FOLDER) -> EliteAdapter:
    """A variant as an adapter for a pipeline, not attached; what it did not train is the base model's.

    Args:
        name: one of `VARIANTS`.
        pipeline: the base model that it was trained for.
        folder: of all variants.

    Raises:
        ValueError: for an unknown name, or a file that is damaged or does not fit the pipeline.
        MissingVariantError: when its file is not there.
    """
    from elite.adapter import EliteAdapter

    chosen = variant(name)
    tensors, options = _read(name, folder)
    if chosen.begins_with is not None:
        before, _ = _read(chosen.begins_with, folder)
        tensors = {**before, **tensors}
    adapter = EliteAdapter.for_models(
        pipeline.unet,
        pipeline.text_encoder,
        pipeline.image_encoder,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    state = adapter.state_dict()
    for key, tensor in tensors.items():
        if key not in state or state[key].shape != tensor.shape:
            raise ValueError(f"variant {name} does not fit this model: it has {key} of {tuple(tensor.shape)}.")
    missing = set(half_names(adapter, chosen.half)) - set(tensors)
    if missing:
        raise ValueError(f"variant {name} lacks {min(missing)}: its file is of another kind or damaged.")
    adapter.load_state_dict({**state, **{key: tensor.to(state[key]) for key, tensor in tensors.items()}})
    return adapter


def primary_of(layers: tuple[int, ...]) -> int | None:
    """Which word is the primary one: that of the deepest layer; None where all layers are the same."""
    deepest = max(layers)
    return layers.index(deepest) if len(layers) == 1 or layers.count(deepest) == 1 else None


def _read(name: str, folder: Path) -> tuple[dict[str, Tensor], dict]:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise MissingVariantError(f"variant {name} is not there: {path} does not exist.")
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT or metadata.get("name") != name:
        raise ValueError(f"{path} does not hold the variant {name}.")
    check_finite(tensors, path)
    options = json.loads(metadata["options"])
    return tensors, {**options, "layers": tuple(options["layers"])}


def main(
    source: Annotated[Path, typer.Argument(help="Folder with an adapter's folder for each variant, by its name.")],
    output: Annotated[Path, typer.Option(help="Folder of the bundled halves.")] = FOLDER,
) -> None:
    """Bundle the trained halves of the variants that a folder holds."""
    from elite.adapter import EliteAdapter

    for name in VARIANTS:
        if (source / name).is_dir():
            path = save_variant(name, EliteAdapter.from_pretrained(source / name), output)
            typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
        else:
            typer.echo(f"{name} is not in {source}")


if __name__ == "__main__":
    typer.run(main)
