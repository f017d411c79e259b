"""The command line, on a tiny model folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from elite.cli import app
from elite.cli.generate import Sampler, use_sampler
from elite.concept import Concept
from tests.helpers import half_mask, picture, tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A saved tiny pipeline, with the picture and mask of a subject beside it."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_pipeline().save_pretrained(folder / "model")
    picture().save(folder / "dog.png")
    half_mask().save(folder / "mask.png")
    return folder


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def generate(model: Path, output: Path, *more: object, prompt: str = "a S* of the photo", image: str = "dog.png"):
    source = ["--image", model / image] if image else []
    base = ["generate", "--model", model / "model", *source, "--prompt", prompt, "--output", output, "--steps", 2]
    return run(*base, *more)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(model, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert generate(model, tmp_path / name, "--seed", seed).exit_code == 0
    first, again, other = (Image.open(tmp_path / name / "000.png") for name in "abc")
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_picture_i_of_a_batch_is_that_of_seed_plus_i(model, tmp_path):
    assert generate(model, tmp_path / "many", "--num-images", 2, "--seed", 5).exit_code == 0
    assert generate(model, tmp_path / "one", "--seed", 6).exit_code == 0
    second = np.asarray(Image.open(tmp_path / "many" / "001.png"), dtype=int)
    alone = np.asarray(Image.open(tmp_path / "one" / "000.png"), dtype=int)
    assert np.abs(second - alone).max() <= 1  # a batch may round the last digit otherwise


def test_nothing_is_overwritten_and_pictures_say_what_made_them(model, tmp_path):
    for _ in range(2):
        assert generate(model, tmp_path, "--seed", 7, "--fusion-weight", 0.5).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.png", "001.png"]
    text = Image.open(tmp_path / "000.png").text
    assert text["prompt"] == "a S* of the photo" and text["seed"] == "7" and text["fusion_weight"] == "0.5"


def test_a_concept_file_gives_the_picture_of_its_image(model, tmp_path):
    concept = tmp_path / "dog.safetensors"
    mask = ["--mask", model / "mask.png"]
    made = run("encode", "--model", model / "model", "--image", model / "dog.png", *mask, "--output", concept)
    assert made.exit_code == 0, made.output
    assert generate(model, tmp_path / "image", *mask).exit_code == 0
    assert generate(model, tmp_path / "concept", "--concept", concept, image="").exit_code == 0
    from_image, from_concept = (Image.open(tmp_path / name / "000.png").tobytes() for name in ("image", "concept"))
    assert from_image == from_concept
    assert run("encode", "--image", model / "dog.png", "--output", concept).exit_code == 2  # never silently replaced
    shown = run("info", concept)
    assert shown.exit_code == 0 and '"kind": "concept"' in shown.output


def test_an_adapter_can_be_named_for_a_model_that_has_none(model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model / "model", bare)
    shutil.rmtree(bare / "elite")
    base = ["encode", "--model", bare, "--image", model / "dog.png"]
    without = run(*base, "--output", tmp_path / "without.safetensors")
    assert without.exit_code == 2 and "has no ELITE adapter" in without.stderr and "--adapter" in without.stderr
    made = run(*base, "--output", tmp_path / "with.safetensors", "--adapter", model / "model" / "elite")
    assert made.exit_code == 0, made.output
    own = ["encode", "--model", model / "model", "--image", model / "dog.png", "--output", tmp_path / "own.safetensors"]
    assert run(*own).exit_code == 0
    named, owned = (Concept.load(tmp_path / f"{name}.safetensors") for name in ("with", "own"))
    assert named.words.equal(owned.words) and named.encoder == owned.encoder


def test_converting_there_and_back_keeps_every_bit(model, tmp_path):
    adapter = model / "model" / "elite"
    assert run("convert", adapter, tmp_path / "pt", "--to", "official").exit_code == 0
    assert run("convert", tmp_path / "pt", tmp_path / "back").exit_code == 0
    assert run("convert", tmp_path / "back", tmp_path / "again", "--to", "official").exit_code == 0
    for name in ("global_mapper.pt", "local_mapper.pt"):
        first, second = (torch.load(tmp_path / folder / name, weights_only=True) for folder in ("pt", "again"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert '"kind": "adapter"' in run("info", tmp_path / "back").output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": "a dog"}, "placeholder"),
        ({"prompt": "a S* and a S*"}, "2 times"),
        ({"prompt": "a S* " + "photo " * 40}, "too long"),
        ({"image": "nothing.png"}, "nothing.png does not exist"),
        ({"image": ""}, "--image or --concept"),
        ({"more": ["--mask", "small.png"]}, "20 × 16"),
        ({"more": ["--mask", "black.png"]}, "empty"),
        ({"image": "cut.png"}, "truncated"),
        ({"more": ["--words", "w9"]}, "w9"),
        ({"more": ["--guidance", "nan"]}, "guidance_scale must be a finite number"),
        ({"more": ["--adapter", "no-such-folder"]}, "neither a folder nor a Hub repository"),
        ({"more": ["--device", "nowhere"]}, "nowhere"),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(model, tmp_path, change, says):
    Image.new("L", (5, 5), 255).save(model / "small.png")
    Image.new("L", (20, 16)).save(model / "black.png")
    whole = (model / "dog.png").read_bytes()
    (model / "cut.png").write_bytes(whole[: len(whole) // 2])
    more = [model / word if str(word).endswith(".png") else word for word in change.pop("more", [])]
    result = generate(model, tmp_path / "out", *more, **change)
    assert result.exit_code == 2
    (sentence,) = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert sentence.startswith("error: ") and says in sentence
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused_before_the_model_is_loaded(model, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run("generate", "--model", "no-such-model", "--image", model / "dog.png", "--prompt", "a S*",
                 "--output", tmp_path / "file")  # fmt: skip
    assert result.exit_code == 2 and "is a file" in result.stderr
    assert (tmp_path / "file").read_text() == "kept"


def test_an_output_that_is_a_folder_or_a_link_to_nothing_is_refused_before_the_model_is_loaded(model, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nothing")
    for name, says in (("folder", "is a folder"), ("link", "is a link to nothing")):
        encode = run("encode", "--model", "no-such-model", "--image", model / "dog.png", "--overwrite",
                     "--output", tmp_path / f"{name}.safetensors")  # fmt: skip
        assert encode.exit_code == 2 and says in encode.stderr
    drawn = run("generate", "--model", "no-such-model", "--image", model / "dog.png", "--prompt", "a S*",
                "--output", tmp_path / "link.safetensors")  # fmt: skip
    assert drawn.exit_code == 2 and "is a link to nothing" in drawn.stderr


def test_two_runs_into_one_folder_do_not_overwrite_each_other(model, tmp_path, monkeypatch):
    module = sys.modules[use_sampler.__module__]
    save = module._save

    def save_while_another_run_writes(picture, path, facts):
        save(picture, path, facts)
        if not (tmp_path / "001.png").exists():
            (tmp_path / "001.png").write_text("of another run")

    monkeypatch.setattr(module, "_save", save_while_another_run_writes)
    assert generate(model, tmp_path, "--num-images", 2).exit_code == 0
    assert (tmp_path / "001.png").read_text() == "of another run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.png", "001.png", "002.png"]


def test_a_name_whose_picture_cannot_be_written_is_given_back(tmp_path):
    module = sys.modules[use_sampler.__module__]
    path = module._claim_name(tmp_path)
    assert module._claim_name(tmp_path) != path
    with pytest.raises(AttributeError):
        module._save(None, path, {})
    assert not path.exists()


@pytest.mark.parametrize("sampler", list(Sampler))
def test_every_sampler_draws_on_the_models_own_schedule(fresh, concept, sampler):
    own = fresh.scheduler.config
    use_sampler(fresh, sampler)
    assert sampler.value in type(fresh.scheduler).__name__.lower()
    assert all(fresh.scheduler.config[key] == own[key] for key in ("beta_start", "beta_end", "beta_schedule"))
    drawn = fresh("a S*", concept=concept, num_inference_steps=3, output_type="latent",
                  generator=torch.Generator().manual_seed(0)).images  # fmt: skip
    assert drawn.isfinite().all()


def test_steps_below_one_are_refused(model, tmp_path):
    result = generate(model, tmp_path / "out", "--steps", -3)
    assert result.exit_code == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["generate", "encode", "convert", "info"])
def test_help_shows_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"elite {command}" in result.output


def test_help_needs_no_heavy_library():
    code = "import sys, elite.cli; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"
