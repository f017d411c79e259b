"""Interactive figures: the live view and the page show the same frames, and the page needs no kernel."""

from __future__ import annotations

import re

import numpy as np
import pytest

from elite.teaching import widgets


def shade(value: float) -> np.ndarray:
    return np.full((8, 8, 3), value)


def shown(figure: widgets.InteractiveFigure) -> list[bool]:
    styles = re.findall(r'class="elite-frame" style="([^"]*)"', figure.html())
    return ["none" not in style for style in styles]


def test_page_holds_one_frame_a_value_and_shows_the_first_asked_for():
    figure = widgets.slider(shade, [0.0, 0.5, 1.0], "λ", alt=lambda v: f"shade {v}", start=0.5)
    assert shown(figure) == [False, True, False]
    assert re.findall(r'<img alt="([^"]*)"', figure.html()) == ["shade 0.0", "shade 0.5", "shade 1.0"]


def test_plain_text_does_not_change_between_runs():
    texts = {repr(widgets.slider(shade, [0.0, 1.0], "λ", alt=str)) for _ in range(2)}
    assert texts == {"Interactive figure (λ: 0.00 to 1.00; 2 frames)"}


def test_html_does_not_change_between_runs():
    first, second = (widgets.slider(shade, [0.0, 1.0], "λ", alt=str)._repr_mimebundle_() for _ in range(2))
    assert first["text/html"] == second["text/html"]
    assert first["application/vnd.jupyter.widget-view+json"] != second["application/vnd.jupyter.widget-view+json"]


def test_live_slider_computes_values_between_once_and_reuses_prepared_ones():
    asked = []

    def render(value: float) -> np.ndarray:
        asked.append(value)
        return shade(value)

    figure = widgets.slider(render, [0.0, 0.5, 1.0], "λ", alt=lambda v: f"shade {v}")
    control, picture = figure.widget.children
    assert asked == [0.0, 0.5, 1.0]
    control.value = 0.25
    assert asked[3:] == [0.25] and 'alt="shade 0.25"' in picture.value
    control.value = 0.5
    control.value = 0.25
    assert asked[3:] == [0.25] and 'alt="shade 0.25"' in picture.value


def test_whole_numbers_stay_on_prepared_values():
    figure = widgets.slider(lambda v: shade(v / 9), [0, 4, 9], "step", alt=lambda v: f"step {v}")
    assert [value for _, value in figure.widget.children[0].options] == [0, 4, 9]


def test_two_controls_reach_every_frame_by_their_strides():
    controls = [widgets.Control("word", ("w0", "w1"), "choice"), widgets.slider_control("step", [0, 5, 9])]
    figure = widgets.InteractiveFigure(lambda w, s: shade(0), controls, alt=lambda w, s: f"{w} {s}", start=("w1", 5))
    html = figure.html()
    assert re.findall(r'data-stride="(\d+)"', html) == ["3", "1"]
    assert re.findall(r'<img alt="([^"]*)"', html) == ["w0 0", "w0 5", "w0 9", "w1 0", "w1 5", "w1 9"]
    assert shown(figure).index(True) == 1 * 3 + 1
    word, step, picture = figure.widget.children
    word.value, step.value = "w0", 9
    assert 'alt="w0 9"' in picture.value


def test_toggle_starts_as_asked_and_switches():
    figure = widgets.toggle(shade, "reweighting", alt=lambda on: f"reweighting {on}", start=True)
    assert shown(figure) == [False, True] and " checked" in figure.html()
    figure.widget.children[0].value = False
    assert 'alt="reweighting False"' in figure.widget.children[1].value


def test_render_all_makes_the_frames_in_one_call():
    calls = []

    def render_all(combinations: list) -> list:
        calls.append(combinations)
        return [shade(value) for (value,) in combinations]

    widgets.slider(shade, [0.0, 1.0], "λ", alt=str, render_all=render_all)
    assert calls == [[(0.0,), (1.0,)]]


def test_several_pictures_a_frame_each_have_alt_text_and_label():
    figure = widgets.choice(lambda n: [shade(0), shade(1)], ["a", "b"], "name", alt=str, labels=["map", "picture"])
    assert re.findall(r'<img alt="([^"]*)"', figure.html()) == ["a: map", "a: picture", "b: map", "b: picture"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: widgets.slider(shade, list(range(12)), "x", alt=str), "at most 11"),
        (lambda: widgets.slider(shade, [1], "x", alt=str), "at least two"),
        (lambda: widgets.slider(shade, [0.0, 1.0], "x", alt=str, start=0.3), "start is"),
        (lambda: widgets.InteractiveFigure(shade, [], alt=str), "give one or two"),
        (lambda: widgets.Control("x", (True, False), "toggle"), r"give \(False, True\)"),
        (lambda: widgets.slider(shade, [0.0, 1.0], "x", alt=lambda v: ""), "alt is empty"),
        (lambda: widgets.slider(shade, [0.0, 1.0], "x", alt=str, render_all=lambda c: [shade(0)]), "1 frames for 2"),
    ],
)
def test_wrong_descriptions_are_refused_with_the_reason(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_too_many_frames_are_refused():
    controls = [widgets.slider_control("a", list(range(10))), widgets.slider_control("b", list(range(10)))]
    with pytest.raises(ValueError, match="100 frames"):
        widgets.InteractiveFigure(lambda a, b: shade(0), controls, alt=lambda a, b: "x")
