"""``elite evaluate`` on a folder of a reader's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from elite.cli import app
from tests.helpers import half_mask, picture, tiny_pipeline


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A saved tiny pipeline and two subjects with two prompts each."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_pipeline().save_pretrained(folder / "model")
    for number, name in enumerate(("kettle", "cup")):
        (folder / "subjects" / name).mkdir(parents=True)
        (folder / "subjects" / name / "class.txt").write_text(name)
        for place in range(3):
            picture(10 * number + place).save(folder / "subjects" / name / f"{place}.png")
    half_mask().save(folder / "subjects" / "cup" / "0-mask.png")
    (folder / "subjects" / "prompts.txt").write_text("a {} of the\nthe {}\n")
    return folder


def run(home: Path, output: Path, *more: object):
    words = ["evaluate", "--model", home / "model", "--subjects", home / "subjects", "--output", output, "--steps", 2]
    words += ["--encoders", "toybox", "--pictures", 1, "--device", "cpu", "--no-progress", *more]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_pictures_and_scores_of_every_subject_and_prompt(home, tmp_path):
    found = run(home, tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "clip_t: " in found.stdout and "dino_i: " in found.stdout
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert [one["class_name"] for one in result["subjects"]] == ["cup", "kettle"]
    assert [len(one) for one in result["scores"]["clip_i"]] == [2, 2]
    assert set(result["provenance"]["weights"]) >= {"unet", "adapter", "text_encoder"}
    assert len(list((tmp_path / "out").glob("*/*-*.png"))) == 4
    # The same again draws nothing; another setting is refused.
    before = (tmp_path / "out/result.json").read_bytes()
    assert run(home, tmp_path / "out").exit_code == 0
    assert (tmp_path / "out/result.json").read_bytes() == before
    refused = run(home, tmp_path / "out", "--fusion-weight", 0.9)
    assert refused.exit_code == 2 and "holds the pictures of another evaluation" in refused.output


def test_methods_differ_and_one_subject_can_be_chosen(home, tmp_path):
    results = {}
    for method in ("text", "copy", "textual-inversion"):
        found = run(home, tmp_path / method, "--method", method, "--subject", "cup", "--prompts", 1, "--budget", 2)
        assert found.exit_code == 0, found.output
        results[method] = json.loads((tmp_path / method / "result.json").read_text())
        assert len(results[method]["subjects"]) == 1
    assert results["copy"]["scores"]["clip_i_input"] == [[[1.0]]]
    assert results["text"]["scores"]["clip_i_input"] != [[[1.0]]]
    assert (tmp_path / "textual-inversion/learned/cup.safetensors").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "magic"], "--method must be one of elite, text, copy"),
        (["--subject", "unicorn"], "holds 'unicorn'"),
        (["--subjects", "nowhere"], "is no folder"),
        (["--encoders", "vgg"], "--encoders must be one of public, toybox"),
        (["--method", "rendering"], "only the miniature's own world"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_result(home, tmp_path, more, message):
    found = run(home, tmp_path / "out", *more)
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())
    assert not (tmp_path / "out/result.json").exists()


def test_other_models_than_the_miniature_need_subjects(tmp_path):
    found = CliRunner().invoke(app, ["evaluate", "--model", "sd14", "--output", str(tmp_path / "x")])
    assert found.exit_code == 2 and "--subjects must name a folder" in found.output
