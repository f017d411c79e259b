"""A notebook widget that asks the user study's questions, one pair at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from elite.evaluation.study import QUESTIONS, Answers, preferences

if TYPE_CHECKING:
    from elite.evaluation.study import Pair

SIDE = 224  # pixels of each picture on the page


class StudyWidget:
    """Shows the current pair of `Answers` with two buttons; displays itself in a notebook.

    Args:
        answers: asks and keeps.

    Attributes:
        left, right: the buttons.
        box: the whole widget.
    """

    def __init__(self, answers: Answers) -> None:
        import ipywidgets

        self.answers = answers
        self._text = ipywidgets.HTML()
        self._pictures = [ipywidgets.Image(format="png", width=SIDE, height=SIDE) for _ in range(3)]
        self.left = ipywidgets.Button(description="Left")
        self.right = ipywidgets.Button(description="Right")
        self.left.on_click(lambda _: self._choose("left"))
        self.right.on_click(lambda _: self._choose("right"))
        labels = ["Target", "Left", "Right"]
        columns = [
            ipywidgets.VBox([ipywidgets.Label(label), picture])
            for label, picture in zip(labels, self._pictures, strict=True)
        ]
        self.box = ipywidgets.VBox([self._text, ipywidgets.HBox(columns), ipywidgets.HBox([self.left, self.right])])
        self._show()

    def _choose(self, side: str) -> None:
        try:
            self.answers.answer(side)
        except OSError as error:
            self._text.value = f"<p>The answer could not be written: {error}. Choose again.</p>"
            return
        self._show()

    def _show(self) -> None:
        from html import escape

        pair = self.answers.current
        done, total = len(self.answers.given), len(self.answers.pairs)
        if pair is None:
            self.left.disabled = self.right.disabled = True
            self._text.value = f"<p>All {total} questions are answered. Thank you!</p>{self._preferences()}"
            return
        self._text.value = (
            f"<p>Question {done + 1} of {total}: <b>{escape(QUESTIONS[pair.question])}</b></p>"
            f"<p>Text: {escape(pair.text)}</p>"
        )
        for picture, file in zip(self._pictures, self._files(pair), strict=True):
            picture.value = file.read_bytes()

    @staticmethod
    def _files(pair: Pair) -> tuple[Path, Path, Path]:
        return pair.given, pair.left, pair.right

    def _preferences(self) -> str:
        """Only once everything is answered: before, it would tell which side is which."""
        from html import escape

        lines = [
            f"<tr><td>{escape(one.rival)}</td><td>{one.question}</td><td>{one.rate:.0%}</td>"
            f"<td>{one.low:.0%} to {one.high:.0%}</td><td>{one.ours} of {one.answers}</td></tr>"
            for one in preferences(self.answers.given)
        ]
        head = "<tr><th>against</th><th>question</th><th>ours preferred</th><th>95 %</th><th>answers</th></tr>"
        return f"<table>{head}{''.join(lines)}</table>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.box._repr_mimebundle_(**kwargs)
