"""Draw the README's picture with the bundled weights: ``python tools/readme_picture.py``.

Each row: the one given picture, then what the prompts above the columns draw. Seeds are fixed, nothing is picked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from elite import default_guidance, load_pipeline
from elite.io.files import replacing
from elite.toybox.world import EVALUATION_SUBJECTS, render

TARGET = Path(__file__).resolve().parents[1] / ".github" / "readme.png"
CLASSES = ("dog", "cat", "robot")
PROMPTS = {"a photo of a S*": 0.8, "a S* in the snow": 0.6, "a S* on the beach": 0.6, "a S* wearing a red hat": 0.6}
CELL, HEAD, GAP = 160, 28, 8  # pixels


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of the README.")
    parser.add_argument("--output", type=Path, default=TARGET, help="where the PNG goes")
    options = parser.parse_args(arguments)
    pipe = load_pipeline("toybox")
    pipe.set_progress_bar_config(disable=True)
    subjects = [next(one for one in EVALUATION_SUBJECTS if one.class_name == name) for name in CLASSES]
    floor = "on top of a wooden floor"
    photos = [render(each, scene=floor, seed=number, close_up=True) for number, each in enumerate(subjects)]
    concepts = pipe.encode_concepts([photo.image for photo in photos], [photo.mask for photo in photos])
    columns = [[photo.image for photo in photos]]
    for prompt, weight in PROMPTS.items():
        generators = [torch.Generator().manual_seed(number) for number in range(len(concepts))]
        drawn = pipe(
            [prompt] * len(concepts),
            concept=concepts,
            fusion_weight=weight,
            num_inference_steps=50,
            guidance_scale=default_guidance("toybox"),
            generator=generators,
        )
        columns.append(drawn.images)
    size = (len(columns) * (CELL + GAP) + GAP, len(concepts) * (CELL + GAP) + HEAD)
    whole = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(13)
    for number, (title, column) in enumerate(zip(["the one picture", *PROMPTS], columns, strict=True)):
        left = GAP + number * (CELL + GAP)
        pen.text((left + CELL // 2, HEAD // 2), title, fill="black", font=font, anchor="mm")
        for row, picture in enumerate(column):
            whole.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, HEAD + row * (CELL + GAP)))
    with replacing(options.output) as temporary:
        whole.save(temporary, format="PNG", optimize=True)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
