"""Figures for the chapters: rows of pictures, heat maps over pictures, curves. All have alt texts.

All functions return objects that show themselves as plain HTML with ``<img alt=…>`` and whose ``text/plain`` is
deterministic. Small pictures are stored at their own size and enlarged by the page without smoothing, so that a
64-pixel picture costs a few kilobytes and stays crisp. The same pixels always give the same bytes.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

PictureLike = Any  # PIL.Image.Image, or an array or tensor: (H, W), (H, W, 3), (3, H, W), (1, H, W); values in [0, 1]

# Shown on any background: the picture brings its own colours and the text inherits the page's.
_ROW_STYLE = "display:flex;flex-wrap:wrap;gap:10px;margin:0.5em 0"
_CELL_STYLE = "margin:0;max-width:100%"
_LABEL_STYLE = "font-size:0.85em;text-align:center;line-height:1.3;overflow-wrap:anywhere"


def to_picture(picture: PictureLike) -> Image.Image:
    """Make an RGB picture from what the models return.

    Args:
        picture: a PIL image, or an array or tensor of shape (H, W), (H, W, 3), (3, H, W) or (1, H, W). Floating
            point values are in [0, 1] and are clipped to it; integers are in [0, 255].

    Returns:
        An RGB PIL image of the same height and width.

    Raises:
        ValueError: ``picture`` has another shape.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    values = _array(picture)
    if values.ndim == 3 and values.shape[0] in (1, 3) and values.shape[-1] not in (1, 3):
        values = values.transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]  # (H, W, 1) -> (H, W)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] != 3):
        raise ValueError(f"picture has shape {tuple(values.shape)}; give (H, W), (H, W, 3), (3, H, W) or a PIL image")
    if values.dtype.kind == "f":
        values = np.clip(values * 255 + 0.5, 0, 255)
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def encode_picture(picture: Image.Image, quality: int = 90) -> tuple[str, bytes]:
    """Encode a picture in the format that makes the smallest file: PNG, or WebP where losing a little is allowed.

    Args:
        picture: a PIL image.
        quality: WebP quality, 1 to 99; 100 asks for a lossless file.

    Returns:
        The MIME type and the file's bytes. The same pixels give the same bytes: no dates, no names of programs.
    """
    lossless = {"lossless": True} if quality >= 100 else {"quality": quality}
    files = {}
    for mime, name, options in (
        ("image/png", "PNG", {"optimize": True}),
        ("image/webp", "WEBP", {"method": 6, **lossless}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, format=name, **options)
        files[mime] = buffer.getvalue()
    mime = min(files, key=lambda key: len(files[key]))
    return mime, files[mime]


def image_tag(picture: Image.Image, alt: str, width: int, quality: int = 90, style: str = "") -> str:
    """An ``<img>`` with the picture inside it, its alt text, and a width in CSS pixels that shrinks on small screens.

    Args:
        picture: a PIL image, stored at its own size and enlarged by the page.
        alt: what the picture shows, in words; must not be empty.
        width: width on the page in CSS pixels.
        quality: as in ``encode_picture``.
        style: further CSS declarations.

    Returns:
        The HTML text.

    Raises:
        ValueError: ``alt`` is empty.
    """
    if not alt.strip():
        raise ValueError("alt is empty; give the words a reader who cannot see the figure needs")
    mime, data = encode_picture(picture, quality)
    # enlarged pictures keep their pixels; reduced ones are smoothed
    crisp = "image-rendering:pixelated;" if width > picture.width else ""
    css = f"width:{width}px;max-width:100%;height:auto;margin:0;{crisp}{style}"
    source = f"data:{mime};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(alt)}" style="{css}" src="{source}">'


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: the image, its alt text, the label under it and its width in CSS pixels."""

    image: Image.Image
    alt: str
    label: str = ""
    width: int = 128
    quality: int = 90

    def html(self) -> str:
        """The panel as an HTML ``<figure>``."""
        label = f'<figcaption style="{_LABEL_STYLE}">{html.escape(self.label)}</figcaption>' if self.label else ""
        tag = image_tag(self.image, self.alt, self.width, self.quality)
        return f'<figure style="{_CELL_STYLE};width:{self.width}px">{tag}{label}</figure>'


@dataclass(frozen=True)
class Figure:
    """Some panels that belong together, with one sentence that says what they show."""

    panels: tuple[Panel, ...]
    alt: str
    columns: int | None = None
    title: str = field(default="")

    def __post_init__(self) -> None:
        if not self.panels:
            raise ValueError("panels is empty; a figure needs at least one picture")
        if not self.alt.strip():
            raise ValueError("alt is empty; say in a sentence what the figure shows")

    def html(self) -> str:
        """The figure as HTML: a row of panels that wraps on narrow screens."""
        limit = ""
        if self.columns:
            widest = max(panel.width for panel in self.panels)
            limit = f";max-width:{self.columns * (widest + 10)}px"
        title = f'<div style="font-weight:600">{html.escape(self.title)}</div>' if self.title else ""
        cells = "".join(panel.html() for panel in self.panels)
        label = html.escape(self.alt)
        row = f'<div class="elite-figure" role="group" aria-label="{label}" style="{_ROW_STYLE}{limit}">{cells}</div>'
        return title + row

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}


def pictures(
    images: Sequence[PictureLike] | PictureLike,
    labels: Sequence[str] | None = None,
    *,
    alt: str,
    columns: int | None = None,
    width: int = 128,
    title: str = "",
    quality: int = 90,
) -> Figure:
    """Show pictures side by side, each with a label under it.

    Args:
        images: pictures as ``to_picture`` takes them; a single one is allowed.
        labels: one text per picture; also the end of its alt text.
        alt: one sentence on what the whole row shows.
        columns: pictures in a row before the next row starts; by default as many as fit.
        width: width of each picture in CSS pixels.
        title: a heading over the row.
        quality: as in ``encode_picture``; 100 stores the pictures without loss.

    Returns:
        A figure that shows itself.

    Raises:
        ValueError: no pictures, another number of labels than pictures, or an empty ``alt``.
    """
    several = list(images) if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4 else [images]
    if labels is not None and len(labels) != len(several):
        raise ValueError(f"labels has {len(labels)} entries for {len(several)} pictures; give one label a picture")
    panels = []
    for number, image in enumerate(several):
        label = labels[number] if labels else ""
        name = label or f"picture {number + 1} of {len(several)}"
        words = alt if len(several) == 1 else f"{alt.rstrip('.')}: {name}"
        panels.append(Panel(to_picture(image), words, label, width, quality))
    return Figure(tuple(panels), alt, columns, title)


def heatmap(values: PictureLike, maximum: float | None = None) -> Image.Image:
    """Colour a map of numbers, dark for 0 and bright for the maximum (matplotlib's "inferno").

    Args:
        values: array or tensor (H, W), not negative.
        maximum: the value shown brightest; the largest value in the map if not given.

    Returns:
        An RGB picture of H × W pixels.

    Raises:
        ValueError: ``values`` is not (H, W).
    """
    from matplotlib import colormaps

    numbers = _array(values).astype(np.float64)
    if numbers.ndim != 2:
        raise ValueError(f"values has shape {tuple(numbers.shape)}; a heat map needs (H, W)")
    top = float(numbers.max()) if maximum is None else maximum
    scaled = np.clip(numbers / top, 0, 1) if top > 0 else np.zeros_like(numbers)
    return Image.fromarray((colormaps["inferno"](scaled)[..., :3] * 255 + 0.5).astype(np.uint8))


def overlay(
    picture: PictureLike, values: PictureLike, strength: float = 0.65, maximum: float | None = None
) -> Image.Image:
    """Lay a heat map over a picture, enlarged to the picture's size.

    Args:
        picture: the picture, as ``to_picture`` takes it.
        values: array or tensor (H, W), not negative; for attention, the probabilities of one word.
        strength: 0 shows only the picture, 1 only the map.
        maximum: the value shown brightest; the largest value in the map if not given.

    Returns:
        An RGB picture of the picture's size.

    Raises:
        ValueError: ``values`` is not (H, W), or ``strength`` is outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength}; give a number between 0 (picture) and 1 (map)")
    base = to_picture(picture)
    heat = heatmap(values, maximum).resize(base.size, Image.Resampling.BICUBIC)
    return Image.blend(base, heat, strength)


def attention_maps(
    picture: PictureLike,
    maps: Mapping[str, PictureLike],
    *,
    alt: str,
    width: int = 128,
    strength: float = 0.65,
    shared_maximum: bool = False,
) -> Figure:
    """Show where each word attends: the picture, then one overlay per word (Fig. 15 of the paper).

    Args:
        picture: the picture that was generated.
        maps: for each word its attention map (H, W), values in [0, 1].
        alt: one sentence on what the row shows.
        width: width of each panel in CSS pixels.
        strength: how visible the map is, as in ``overlay``.
        shared_maximum: with True all maps share one scale, so that a weak word looks dark; with False each map is
            scaled to its own maximum, so that its shape is seen.

    Returns:
        A figure that shows itself.

    Raises:
        ValueError: ``maps`` is empty, or a map is not (H, W).
    """
    if not maps:
        raise ValueError("maps is empty; give at least one word and its map")
    top = max(float(_array(values).max()) for values in maps.values()) if shared_maximum else None
    panels = [to_picture(picture), *(overlay(picture, values, strength, top) for values in maps.values())]
    return pictures(panels, ["picture", *maps], alt=alt, width=width)


def curves(
    series: Mapping[str, Sequence[float] | tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    log: bool = False,
    width: int = 560,
    height: int = 300,
) -> Figure:
    """Draw lines against a common axis.

    Args:
        series: for each line its name and either the y values (x counts from 0) or a pair (x values, y values).
        xlabel: name of the horizontal axis, with its unit.
        ylabel: name of the vertical axis, with its unit.
        alt: what the lines show, in a sentence.
        log: draw the vertical axis in powers of ten.
        width: width on the page in CSS pixels.
        height: height in CSS pixels.

    Returns:
        A figure that shows itself.

    Raises:
        ValueError: ``series`` is empty.
    """
    from matplotlib.figure import Figure as NewFigure

    if not series:
        raise ValueError("series is empty; give at least one line")
    drawing = NewFigure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    axes = drawing.subplots()
    # line styles differ too, so that the lines are told apart without colour
    for number, (name, values) in enumerate(series.items()):
        x, y = values if isinstance(values, tuple) else (range(len(values)), values)
        style = ("-", "--", "-.", ":")[number % 4]
        axes.plot([float(v) for v in x], [float(v) for v in y], style, label=name, linewidth=1.8)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if len(series) > 1:
        axes.legend()
    return drawn(drawing, alt=alt, width=width)


def drawn(drawing: MatplotlibFigure, *, alt: str, width: int | None = None) -> Figure:
    """Turn a matplotlib figure into one that has an alt text and stable bytes.

    Args:
        drawing: a matplotlib figure; make it with ``matplotlib.figure.Figure`` rather than pyplot, which would show
            it a second time.
        alt: what it shows, in a sentence.
        width: width on the page in CSS pixels; by default one CSS pixel for each of the drawing's at 100 dpi.

    Returns:
        A figure that shows itself. Its background is white, so it is readable in the dark theme as well.
    """
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    image = Image.open(buffer).convert("RGB")
    image = image.quantize(colors=128, dither=Image.Dither.NONE)  # a line drawing has few colours: a third of the size
    return Figure((Panel(image, alt, width=width or round(drawing.get_figwidth() * 100), quality=100),), alt)


def _array(values: PictureLike) -> np.ndarray:
    """A numpy array of a tensor on any device, an array or nested lists; half precision becomes float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().float() if values.is_floating_point() else values.detach().cpu()
    return np.asarray(values)
