"""Samples of both stages: keys, shapes, determinism, and files that cannot be read."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from elite.data import samples as samples_module
from elite.data.augment import FAR, NEAR
from elite.data.index import index_boxes, index_masks
from elite.data.order import StepBatches
from elite.data.samples import (
    GlobalSamples,
    LocalSamples,
    SampleSettings,
    TooManyBrokenFilesError,
    caption,
    collate,
)
from elite.features import CLIP_MEAN, CLIP_STD
from elite.prompts import TEMPLATES

SMALL = SampleSettings(resolution=64, clip_size=64, cell=4)
STAGES = (GlobalSamples, LocalSamples)


def make(stage, subset, settings=SMALL):
    index = index_boxes(subset) if stage is GlobalSamples else index_masks(subset, resolution=64)
    return stage(index, subset, settings)


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


def unnormalise(pixels: torch.Tensor) -> torch.Tensor:
    return pixels * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)


@pytest.mark.parametrize(("resolution", "clip_size", "cell"), [(64, 64, 4), (128, 56, 8)])
def test_samples_have_the_promised_keys_shapes_and_ranges(subset, resolution, clip_size, cell):
    settings = SampleSettings(resolution=resolution, clip_size=clip_size, cell=cell)
    first, second = make(GlobalSamples, subset, settings)[0], make(LocalSamples, subset, settings)[0]
    assert set(first) == {"pixel_values", "pixel_values_clip", "prompt", "class_name", "index", "skipped"}
    assert set(second) == set(first) | {"loss_mask", "pixel_values_object", "mask"}
    for sample in (first, second):
        assert sample["pixel_values"].shape == (3, resolution, resolution)
        assert sample["pixel_values"].min() >= -1 and sample["pixel_values"].max() <= 1
        assert sample["prompt"].count("S*") == 1
        assert all(v.dtype == torch.float32 for v in sample.values() if isinstance(v, torch.Tensor))
    for pixels in (first["pixel_values_clip"], second["pixel_values_clip"], second["pixel_values_object"]):
        assert pixels.shape == (3, clip_size, clip_size)
        assert unnormalise(pixels).min() >= -1e-5 and unnormalise(pixels).max() <= 1 + 1e-5
    assert second["mask"].shape == (1, clip_size, clip_size)
    assert second["loss_mask"].shape == (1, resolution // cell, resolution // cell)
    assert set(second["mask"].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("stage", STAGES)
def test_seed_step_and_index_decide_a_sample(subset, stage):
    data, again = make(stage, subset), make(stage, subset)
    for key in [(3, 0), (7, 41), (3, 9)]:
        data[(key[0] + 1) % 12, 5]  # what was asked before does not matter
        assert equal(data[key], again[key])
    assert equal(data[4], data[4, 0])
    assert not equal(data[4, 0], data[4, 1])
    other = make(stage, subset, SampleSettings(resolution=64, clip_size=64, cell=4, seed=1))
    assert not equal(data[4, 0], other[4, 0])


def test_worker_processes_change_nothing(subset):
    data = make(LocalSamples, subset)
    batches = StepBatches(len(data), batch_size=4, start=5, stop=7)
    alone = list(DataLoader(data, batch_sampler=batches, collate_fn=collate))
    helped = list(DataLoader(data, batch_sampler=batches, collate_fn=collate, num_workers=2))
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert alone[0]["pixel_values"].shape == (4, 3, 64, 64) and len(alone[0]["prompt"]) == 4
    assert alone[0]["index"].tolist() == [row for row, _ in next(iter(batches))]


def test_a_global_sample_is_the_box_with_its_border(subset):
    data = make(GlobalSamples, subset, SampleSettings(resolution=64, clip_size=64, cell=4, augment=False))
    row = data.index.frame.row(2, named=True)
    picture = Image.open(subset.image(row["image_id"]))
    left, right = int(row["x_min"] * 96 - 1), int(row["x_max"] * 96 + 1)  # 10 px at 512 are 1 px at 64
    top, bottom = int(row["y_min"] * 80 - 1), int(row["y_max"] * 80 + 1)
    expected = np.asarray(picture.crop((left, top, right, bottom)).resize((64, 64), Image.Resampling.BICUBIC))
    got = data[2]
    assert np.allclose(got["pixel_values"].permute(1, 2, 0).numpy(), expected / 127.5 - 1, atol=1e-6)
    assert np.allclose(unnormalise(got["pixel_values_clip"]).permute(1, 2, 0).numpy(), expected / 255, atol=1e-6)


def test_the_global_target_does_not_depend_on_the_step(subset):
    data = make(GlobalSamples, subset)
    assert all(torch.equal(data[5, step]["pixel_values"], data[5]["pixel_values"]) for step in range(1, 6))
    assert any(not torch.equal(data[5, step]["pixel_values_clip"], data[5]["pixel_values_clip"]) for step in (1, 2, 3))


def test_the_reference_object_shows_the_object_on_black(subset):
    data = make(LocalSamples, subset)
    for row in range(12):
        sample = data[row, 3]
        shown = unnormalise(sample["pixel_values_object"]).amax(dim=0)
        kernel = torch.ones(1, 1, 5, 5)
        near = torch.nn.functional.conv2d(sample["mask"][None], kernel, padding=2)[0, 0] > 0
        assert shown[~near].max() < 0.05  # black away from the object
        kernel = torch.ones(1, 1, 11, 11)
        inside = torch.nn.functional.conv2d(sample["mask"][None], kernel, padding=5)[0, 0] == 121
        assert shown[inside].min() > 0.6  # the ellipses are bright, the background is dark


def test_the_local_crop_holds_the_whole_mask(subset):
    """Without augmentation the object stands in the middle of the crop, clear of its edges."""
    data = make(LocalSamples, subset, SampleSettings(resolution=64, clip_size=64, cell=4, augment=False))
    for row in range(12):
        sample = data[row]
        mask = sample["mask"][0]
        assert mask.mean() > 0.5
        assert not mask[0].any() and not mask[-1].any() and not mask[:, 0].any() and not mask[:, -1].any()
        assert sample["loss_mask"].min() == 1


def test_square_crops_keep_proportions(subset):
    from dataclasses import replace

    plain = SampleSettings(resolution=64, clip_size=64, cell=4, augment=False)
    row = 0
    shapes = {}
    for crop in ("stretch", "square"):
        mask = make(LocalSamples, subset, replace(plain, crop=crop))[row]["mask"][0].numpy() > 0
        shapes[crop] = mask.any(axis=0).sum() / mask.any(axis=1).sum()
    found = index_masks(subset, resolution=64).frame.row(row, named=True)
    true = (found["x_max"] - found["x_min"]) * 96 / ((found["y_max"] - found["y_min"]) * 80)
    assert abs(shapes["square"] - true) < 0.08
    assert abs(shapes["stretch"] - 1) < 0.05


def test_far_and_near_objects_say_so(subset):
    data = make(LocalSamples, subset)
    seen = set()
    for step in range(40):
        sample = data[1, step]
        words = [w for w in (*FAR, *NEAR) if sample["prompt"].startswith(w + " ")]
        seen.update(words)
        assert (sample["loss_mask"].min() == 0) == (bool(words) and words[0] in FAR)
    assert seen == {*FAR, *NEAR}


def test_captions_agree_with_the_authors_where_theirs_are_sound():
    """Theirs: the words, then the template without its first letter; which breaks "the …" and nothing else."""
    for template in TEMPLATES:
        for words in ("a", *FAR, *NEAR):
            authors = words + template.format("S*")[1:]
            if template.startswith("the "):
                authors = template.format("S*") if words == "a" else words + template.format("S*")[3:]
            assert caption(template, "S*", words) == authors


def test_all_templates_are_used(subset):
    data = make(GlobalSamples, subset)
    prompts = {data[step % 12, step]["prompt"] for step in range(300)}
    assert prompts == {t.format("S*") for t in TEMPLATES}


def break_picture(subset, image_id: str, how: str) -> None:
    path = subset.image(image_id)
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(bytes(len(data)))


@pytest.mark.parametrize("how", ["gone", "empty", "truncated", "zeros"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_broken_picture_is_skipped_and_counted(subset, stage, how):
    data = make(stage, subset, SampleSettings(resolution=64, clip_size=64, cell=4, max_broken=0.1))
    image_id = data.index.frame["image_id"][3]
    whole = data[4, 8]
    data = make(stage, subset, data.settings)
    index = data.index
    break_picture(subset, image_id, how)
    data = stage(index, subset, data.settings)
    with pytest.warns(UserWarning, match=rf"{image_id}.*the next object is taken"):
        sample = data[3, 8]
    assert sample["index"] == 4 and sample["skipped"] == 1
    assert all(equal({k: sample[k]}, {k: whole[k]}) for k in whole if k != "skipped")
    assert equal(data[3, 8], sample)
    assert list(data.broken) == [3] and image_id in data.broken[3]
    assert "1 broken" in data.report() and image_id in data.report()


@pytest.mark.parametrize("how", ["gone", "black", "text"])
def test_a_broken_mask_is_skipped_and_counted(subset, how):
    data = make(LocalSamples, subset, SampleSettings(resolution=64, clip_size=64, cell=4, max_broken=0.1))
    path = subset.mask(data.index.frame["mask"][3])
    if how == "gone":
        path.unlink()
    elif how == "black":
        Image.new("1", (40, 40)).save(path)
    else:
        path.write_text("not a picture")
    with pytest.warns(UserWarning, match=path.name):
        assert data[3]["index"] == 4
    assert path.name in data.broken[3]


@pytest.mark.filterwarnings("ignore:.*the next object is taken")
def test_too_many_broken_files_stop_the_run_and_are_named(subset):
    data = make(GlobalSamples, subset, SampleSettings(resolution=64, clip_size=64, cell=4, max_broken=0.2))
    ids = data.index.frame["image_id"].to_list()
    for image_id in ids[4:8]:
        subset.image(image_id).unlink()
    assert data[4 - 1]["skipped"] == 0
    with pytest.raises(TooManyBrokenFilesError, match=rf"3 of the 4 objects.*20%(.|\n)*{ids[4]}"):
        data[4]


def test_a_worker_s_complaint_is_the_same_sentence(subset):
    settings = SampleSettings(resolution=64, clip_size=64, cell=4, max_broken=0.0)
    data = make(GlobalSamples, subset, settings)
    subset.image(data.index.frame["image_id"][0]).unlink()
    with pytest.raises(
        TooManyBrokenFilesError, match=r"^1 of the 1 objects tried are broken, 0% are allowed"
    ) as caught:
        list(DataLoader(data, batch_size=2, num_workers=1, collate_fn=collate))
    assert "Traceback" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*the next object is taken")
def test_one_broken_file_does_not_stop_a_run_that_has_just_begun(subset):
    data = make(GlobalSamples, subset, SampleSettings(resolution=64, clip_size=64, cell=4, max_broken=0.1))
    subset.image(data.index.frame["image_id"][0]).unlink()
    assert data[0]["index"] == 1  # 1 of 2 tried, but a tenth of the index is not exceeded


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", "round"),
        ("resolution", 60),
        ("max_broken", 1.0),
        ("templates", ("a photo",)),
        ("templates", ()),
    ],
)
def test_settings_that_make_no_sense_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        SampleSettings(**{"resolution": 64, "cell": 4, field: value})


def test_indexes_of_the_other_stage_and_rows_outside_are_refused(subset):
    with pytest.raises(ValueError, match="needs an index of masks"):
        LocalSamples(index_boxes(subset), subset)
    with pytest.raises(ValueError, match=r"index is empty(.|\n)*12 dropped"):
        LocalSamples(index_masks(subset), subset)  # 100 px at 512: these pictures are too small
    with pytest.raises(IndexError, match="12"):
        make(GlobalSamples, subset)[12]


def test_settings_follow_a_pipeline():
    from types import SimpleNamespace as Namespace

    pipeline = Namespace(
        vae_scale_factor=4,
        unet=Namespace(config=Namespace(sample_size=16)),
        image_encoder=Namespace(config=Namespace(image_size=64)),
    )
    assert SampleSettings.for_pipeline(pipeline, seed=3) == SampleSettings(64, 64, 4, seed=3)


def test_the_examples_in_the_documentation_hold():
    assert doctest.testmod(samples_module).failed == 0
