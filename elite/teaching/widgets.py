"""Interactive figures that work with a kernel and without one.

One object carries three views of the same description: a widget for a live kernel, where values between the
prepared ones are computed when they are asked for; plain HTML for the built page, which moves through prepared
frames by mouse and keyboard and needs no library; and a line of text that never changes. Only the oldest widget
types are used (ipywidgets 7.7 and 8).
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from elite.teaching.figures import Figure, Panel, PictureLike, image_tag, to_picture

MAX_VALUES = 11  # prepared values of one slider
MAX_FRAMES = 40  # prepared frames of one figure: a page with several figures stays near a megabyte

# Reads every control of the figure, shows frame k, and keeps the printed value and the spoken value up to date.
_SCRIPT = (
    "let k=0;this.querySelectorAll('[data-stride]').forEach(c=>{"
    "const v=c.type=='checkbox'?+c.checked:+c.value,t=c.dataset.labels.split('|')[v];"
    "k+=v*c.dataset.stride;const o=c.parentNode.querySelector('output');if(o)o.value=t;"
    "c.setAttribute('aria-valuetext',t)});"
    "this.querySelectorAll('.elite-frame').forEach((e,i)=>{e.style.display=i==k?'':'none'})"
)


@dataclass(frozen=True)
class Control:
    """What a reader moves.

    Attributes:
        label: its name, shown before it.
        values: the values with a prepared frame, in order.
        kind: "range" for a slider, "choice" for a list of names, "toggle" for on and off.
        form: how a value is written, as a format string; for "choice" and "toggle" it is applied to ``str(value)``.
        continuous: with a kernel, a "range" of numbers also takes the values between.
    """

    label: str
    values: tuple[Any, ...]
    kind: Literal["range", "choice", "toggle"] = "range"
    form: str = "{}"
    continuous: bool = False

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"values of {self.label!r} has {len(self.values)} entry; a control needs at least two")
        if len(self.values) > MAX_VALUES:
            raise ValueError(f"values of {self.label!r} has {len(self.values)} entries; give at most {MAX_VALUES}")
        if self.kind == "toggle" and self.values != (False, True):
            raise ValueError(f"values of the toggle {self.label!r} are {self.values}; give (False, True)")
        if any("|" in self.text(value) for value in self.values):
            raise ValueError(f"values of {self.label!r} contain '|'; choose names without it")

    def text(self, value: Any) -> str:
        """The value as the reader sees it."""
        if self.kind == "toggle":
            return "on" if value else "off"
        return self.form.format(value)


class InteractiveFigure:
    """A picture, or a row of pictures, that changes with one or two controls.

    Args:
        render: takes one value per control, returns a picture, a list of pictures or a ``Figure``.
        controls: one or two controls; the frames of all their combinations are prepared.
        alt: takes the same values, returns the alt text of that frame.
        start: the values shown first; by default the first of each control.
        render_all: takes the list of all combinations (tuples of values) and returns their pictures in the same order:
            for models that are faster on a batch. Without it ``render`` is called for each.
        labels: the label under each picture, where ``render`` returns a list of pictures.
        width: width of each picture on the page in CSS pixels.
        quality: as in ``elite.teaching.figures.encode_picture``.

    Raises:
        ValueError: no control or more than two, too many frames, or ``start`` is not among the values.
    """

    def __init__(
        self,
        render: Callable[..., Any],
        controls: Sequence[Control],
        *,
        alt: Callable[..., str],
        start: Sequence[Any] | None = None,
        render_all: Callable[[list[tuple[Any, ...]]], Sequence[Any]] | None = None,
        labels: Sequence[str] | None = None,
        width: int = 256,
        quality: int = 88,
    ) -> None:
        self.controls = tuple(controls)
        if len(self.controls) not in (1, 2):
            raise ValueError(f"controls has {len(self.controls)} entries; give one or two")
        combinations = list(itertools.product(*(control.values for control in self.controls)))
        if len(combinations) > MAX_FRAMES:
            raise ValueError(f"controls make {len(combinations)} frames; choose values that make at most {MAX_FRAMES}")
        self.start = tuple(start) if start is not None else combinations[0]
        if self.start not in combinations:
            raise ValueError(f"start is {self.start}; choose a combination of the controls' values")
        self._render, self._alt, self._labels = render, alt, tuple(labels or ())
        self._width, self._quality = width, quality
        pictures = list(render_all(combinations)) if render_all else [render(*values) for values in combinations]
        if len(pictures) != len(combinations):
            raise ValueError(f"render_all returned {len(pictures)} frames for {len(combinations)} combinations")
        self._frames = {
            values: self._frame(picture, values) for values, picture in zip(combinations, pictures, strict=True)
        }
        self._combinations = combinations
        self._widget: Any = None

    def frame(self, *values: Any) -> str:
        """The HTML of one frame; computed when it was not prepared, and kept."""
        if values not in self._frames:
            self._frames[values] = self._frame(self._render(*values), values)
        return self._frames[values]

    def html(self) -> str:
        """The figure for a page without a kernel: controls and all prepared frames."""
        parts = []
        stride = len(self._combinations)
        for control, value in zip(self.controls, self.start, strict=True):
            stride //= len(control.values)
            parts.append(_control_html(control, control.values.index(value), stride))
        frames = "".join(
            f'<div class="elite-frame" style="{_display(values == self.start)}">{self._frames[values]}</div>'
            for values in self._combinations
        )
        return f'<div class="elite-interactive" oninput="{html.escape(_SCRIPT)}">{"".join(parts)}{frames}</div>'

    @property
    def widget(self) -> Any:
        """The figure for a live kernel: an ipywidgets box, made when it is first asked for."""
        if self._widget is None:
            self._widget = self._build_widget()
        return self._widget

    def __repr__(self) -> str:
        texts = []
        for control in self.controls:
            first, last = control.text(control.values[0]), control.text(control.values[-1])
            texts.append(f"{control.label}: {first} to {last}")
        return f"Interactive figure ({'; '.join(texts)}; {len(self._combinations)} frames)"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        return {"text/plain": repr(self), "text/html": self.html(), "application/vnd.jupyter.widget-view+json": view}

    def _frame(self, picture: Any, values: tuple[Any, ...]) -> str:
        alt = self._alt(*values)
        if isinstance(picture, Figure):
            return picture.html()
        if not isinstance(picture, (list, tuple)):
            return image_tag(_shrunk(picture), alt, self._width, self._quality)
        panels = []
        for number, one in enumerate(picture):
            label = self._labels[number] if self._labels else ""
            words = f"{alt.rstrip('.')}: {label or f'picture {number + 1} of {len(picture)}'}"
            panels.append(Panel(_shrunk(one), words, label, self._width, self._quality))
        return Figure(tuple(panels), alt).html()

    def _build_widget(self) -> Any:
        import ipywidgets

        inputs = [_control_widget(control, value) for control, value in zip(self.controls, self.start, strict=True)]
        shown = ipywidgets.HTML(value=self.frame(*self.start))

        def moved(_: Any) -> None:
            shown.value = self.frame(*(_nearest(c, w.value) for c, w in zip(self.controls, inputs, strict=True)))

        for widget in inputs:
            widget.observe(moved, names="value")
        return ipywidgets.VBox([*inputs, shown])


def slider(
    render: Callable[[Any], Any],
    values: Sequence[float],
    label: str,
    *,
    alt: Callable[[Any], str],
    start: float | None = None,
    form: str = "{:.2f}",
    **options: Any,
) -> InteractiveFigure:
    """One slider: the fusion weight λ, the guidance scale, the denoising step.

    Args:
        render: takes a value, returns a picture, a list of pictures or a ``Figure``.
        values: the values with a prepared frame, ascending, at most 11. Whole numbers stay whole with a kernel too;
            with fractions a live slider also takes the values between.
        label: the name before the slider.
        alt: takes a value, returns the alt text of that frame.
        start: the value shown first.
        form: how a value is written.
        **options: ``render_all``, ``labels``, ``width``, ``quality`` of ``InteractiveFigure``.

    Returns:
        The figure.
    """
    control = slider_control(label, values, form)
    first = None if start is None else (start,)
    return InteractiveFigure(render, [control], alt=alt, start=first, **options)


def slider_control(label: str, values: Sequence[float], form: str = "{:.2f}") -> Control:
    """A slider for ``InteractiveFigure``; between fractions a live one also takes other values."""
    whole = all(isinstance(value, int) for value in values)
    return Control(label, tuple(values), "range", "{}" if whole and form == "{:.2f}" else form, continuous=not whole)


def toggle(
    render: Callable[[bool], Any], label: str, *, alt: Callable[[bool], str], start: bool = False, **options: Any
) -> InteractiveFigure:
    """One switch, off and on: reweighting, the local branch.

    Args:
        render: takes False or True, returns a picture, a list of pictures or a ``Figure``.
        label: the name beside the switch.
        alt: takes False or True, returns the alt text of that frame.
        start: whether it is on at first.
        **options: as for ``slider``.

    Returns:
        The figure.
    """
    return InteractiveFigure(render, [Control(label, (False, True), "toggle")], alt=alt, start=(start,), **options)


def choice(
    render: Callable[[Any], Any], names: Sequence[Any], label: str, *, alt: Callable[[Any], str], **options: Any
) -> InteractiveFigure:
    """One list of names: which word, which layer.

    Args:
        render: takes a name, returns a picture, a list of pictures or a ``Figure``.
        names: the names, at most 11.
        label: the text before the list.
        alt: takes a name, returns the alt text of that frame.
        **options: as for ``slider``, and ``start`` as a tuple of one name.

    Returns:
        The figure.
    """
    return InteractiveFigure(render, [Control(label, tuple(names), "choice")], alt=alt, **options)


def _display(shown: bool) -> str:
    return "" if shown else "display:none"


def _control_html(control: Control, index: int, stride: int) -> str:
    texts = [control.text(value) for value in control.values]
    data = f'data-stride="{stride}" data-labels="{html.escape("|".join(texts))}" style="vertical-align:middle"'
    label = html.escape(control.label)
    if control.kind == "toggle":
        checked = " checked" if index else ""
        body = f'<input type="checkbox" {data}{checked}> {label}: <output>{texts[index]}</output>'
    elif control.kind == "choice":
        options = "".join(
            f'<option value="{k}"{" selected" if k == index else ""}>{html.escape(text)}</option>'
            for k, text in enumerate(texts)
        )
        body = f"{label} <select {data}>{options}</select>"
    else:
        body = (
            f'{label} = <output style="display:inline-block;min-width:3em">{html.escape(texts[index])}</output> '
            f'<input type="range" min="0" max="{len(texts) - 1}" step="1" value="{index}" '
            f'aria-valuetext="{html.escape(texts[index])}" {data}>'
        )
    return f'<label style="display:block;margin:0.3em 0">{body}</label>'


def _control_widget(control: Control, value: Any) -> Any:
    import ipywidgets

    if control.kind == "toggle":
        return ipywidgets.Checkbox(value=bool(value), description=control.label)
    style = {"description_width": "initial"}
    if control.continuous:
        low, high = min(control.values), max(control.values)
        step = (high - low) / 100
        return ipywidgets.FloatSlider(
            value=value, min=low, max=high, step=step, description=control.label, continuous_update=False, style=style
        )
    options = [(control.text(one), one) for one in control.values]
    kind = ipywidgets.Dropdown if control.kind == "choice" else ipywidgets.SelectionSlider
    extra = {} if control.kind == "choice" else {"continuous_update": False}
    return kind(options=options, value=value, description=control.label, style=style, **extra)


def _nearest(control: Control, value: Any) -> Any:
    """The prepared value that a live slider shows, up to rounding; otherwise the slider's own value."""
    if control.continuous:
        span = max(control.values) - min(control.values)
        close = min(control.values, key=lambda prepared: abs(prepared - value))
        return close if abs(close - value) < span * 1e-6 else round(float(value), 6)
    return value


def _shrunk(picture: PictureLike, limit: int = 512) -> Image.Image:
    """The picture, no larger than ``limit`` pixels: frames of a 512-pixel model would make a page too heavy."""
    image = to_picture(picture)
    if max(image.size) > limit:
        image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    return image
