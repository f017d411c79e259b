"""One picture of a whole table, to look at: a row for each of its rows, under the pictures that were given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from elite.evaluation.studio import Row, Studio
from elite.io.files import replacing
from elite.io.images import read_image

COLUMNS = 8


def write_sheet(studio: Studio, rows: Mapping[str, Row], path: Path, side: int = 128) -> Path:
    """Write a JPEG: the first row is what was given, each further one a row of the table; columns are subjects.

    Every column shows another prompt, spread over each subject's list.

    Args:
        studio: what the table was made with; all its pictures are there.
        rows: the table's.
        path: of the file.
        side: of each picture in pixels.

    Returns:
        The path.
    """
    from diffusers.utils import make_image_grid

    count = min(COLUMNS, len(studio.subjects))
    chosen = [number * len(studio.subjects) // count for number in range(count)]
    pictures = [studio.subjects[subject].given.image for subject in chosen]
    for row in rows.values():
        evaluation = studio.evaluation(row)
        for column, subject in enumerate(chosen):
            prompt = column * len(evaluation.subjects[subject].prompts) // count
            pictures.append(read_image(evaluation.path(subject, prompt, 0)))
    sheet = make_image_grid([one.resize((side, side)) for one in pictures], rows=len(rows) + 1, cols=count)
    with replacing(path) as temporary:
        sheet.save(temporary, format="JPEG", quality=90)
    return path
