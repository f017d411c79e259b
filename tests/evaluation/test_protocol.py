"""The protocol: killed, shared or done at once, it gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from elite.evaluation.drawing import Anchor, Drawing, Elite, PlainText
from elite.evaluation.metrics import subject_means
from elite.evaluation.protocol import RESULT, SHEET, Evaluation, compact, run
from elite.evaluation.scoring import SubjectScorer
from elite.io.images import read_image
from tests.evaluation.worlds import encoders, subject

ROOT = Path(__file__).parents[2]
FEW = Drawing(num_inference_steps=2)
SUBJECTS = [subject(1), subject(2, "cat")]


def evaluation(pipe, folder: Path, **changes) -> Evaluation:
    method = changes.pop("method", None) or Elite(pipe)
    parts = {"subjects": SUBJECTS, "drawing": FEW, "pictures": 2, "batch": 4, **changes}
    return Evaluation(method, folder=folder, **parts)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(evaluation(tiny, folder), encoders, progress=False)
    return folder


class Killed(Exception):
    """What a test ends a run with."""


@pytest.mark.parametrize("after", [0, 1, 2, 5, 7, 11])
def test_a_killed_run_resumes_to_the_same_bytes(tiny, tmp_path, whole, monkeypatch, after):
    """However many pictures were written: a batch that was half there is drawn again as a whole."""
    from PIL import Image

    written, save = [], Image.Image.save

    def save_some(self, *args, **kwargs):
        if len(written) == after:
            raise Killed
        written.append(save(self, *args, **kwargs))

    monkeypatch.setattr(Image.Image, "save", save_some)
    with pytest.raises(Killed):
        run(evaluation(tiny, tmp_path), encoders, progress=False)
    monkeypatch.undo()
    assert not (tmp_path / RESULT).exists()
    run(evaluation(tiny, tmp_path), encoders, progress=False)
    assert digests(tmp_path) == digests(whole)


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_the_pictures_with_the_same_result(tiny, tmp_path, whole, processes):
    """Each draws a part, whatever the order they come in; together it is everything, and nothing twice."""
    shared = evaluation(tiny, tmp_path)
    drawn = []
    for process in reversed(range(processes)):
        before = len(list(tmp_path.rglob("*-*.png")))
        shared.draw(process=process, processes=processes)
        drawn.append(len(list(tmp_path.rglob("*-*.png"))) - before)
    assert sum(drawn) == 12 and shared.missing() == []
    run(shared, encoders, progress=False)
    assert digests(tmp_path) == digests(whole)


def test_the_result_holds_the_scores_of_its_pictures(whole):
    result = json.loads((whole / RESULT).read_text())
    files = [whole / "cat2" / f"{prompt:02d}-{number}.png" for prompt in range(3) for number in range(2)]
    prompts = [prompt for prompt in SUBJECTS[1].prompts for _ in range(2)]
    expected = SubjectScorer(SUBJECTS[1], encoders())(prompts, [read_image(path) for path in files])
    for name in ("clip_i", "clip_t", "dino_i", "retrieval"):
        stored = [value for pictures in result["scores"][name][1] for value in pictures]
        assert stored == pytest.approx(expected[name], abs=6e-5)
    for name, scores in result["scores"].items():
        means = subject_means(scores)
        assert result["summary"][name]["mean"] == pytest.approx(sum(means) / len(means), abs=6e-5)
        assert result["summary"][name]["low"] <= result["summary"][name]["mean"] <= result["summary"][name]["high"]
    assert result["encoders"]["models"] == {"random": "1"}
    assert (whole / SHEET).is_file()


def test_a_picture_is_drawn_anew_from_its_seed(tiny, whole):
    again = evaluation(tiny, whole)
    for place in ((0, 0, 0), (0, 2, 1), (1, 1, 0)):
        assert again.redraw(*place).tobytes() == read_image(again.path(*place)).tobytes()


def test_all_methods_draw_from_the_same_noise(tiny, tmp_path):
    seeds = []

    class Watched(PlainText):
        def draw(self, subject, prompts, given, drawing):
            seeds.extend(given)
            return super().draw(subject, prompts, given, drawing)

    evaluation(tiny, tmp_path / "a", method=Watched(tiny)).draw()
    first, seeds = list(seeds), []
    evaluation(tiny, tmp_path / "b", method=Watched(tiny, "other"), batch=5).draw()
    assert sorted(first) == sorted(seeds)
    assert len(set(first)) == len(first) == 12


def test_a_folder_with_other_pictures_is_refused(tiny, whole):
    before = digests(whole)
    changes = ({"drawing": Drawing(num_inference_steps=3)}, {"method": Elite(tiny, fusion_weight=0.3)}, {"batch": 5})
    for change in changes:
        with pytest.raises(ValueError, match="holds the pictures of another evaluation"):
            run(evaluation(tiny, whole, **change), encoders, progress=False)
    assert digests(whole) == before


def test_a_missing_or_damaged_picture_is_one_sentence(tiny, tmp_path):
    some = evaluation(tiny, tmp_path, method=Anchor("copy"))
    with pytest.raises(FileNotFoundError, match=r"dog1/00-0\.png is missing"):
        some.score(encoders())
    some.draw()
    some.path(1, 2, 1).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"02-1\.png is not a picture"):
        some.score(encoders())
    assert not (tmp_path / RESULT).exists()


def test_nothing_to_draw_is_said(tiny, tmp_path):
    with pytest.raises(ValueError, match="subjects must be at least one"):
        evaluation(tiny, tmp_path, subjects=[])
    with pytest.raises(ValueError, match="subject dog1 has no prompts"):
        evaluation(tiny, tmp_path, subjects=[subject(1, prompts=())])
    with pytest.raises(ValueError, match="pictures must be at least 1"):
        evaluation(tiny, tmp_path, pictures=0)


def test_a_copy_of_the_given_picture_is_a_copy(tmp_path):
    """The trap: whatever is asked for, image scores to the given picture are 1."""
    some = evaluation(None, tmp_path, method=Anchor("copy"))
    result = run(some, encoders, progress=False)
    assert result["summary"]["clip_i_input"]["mean"] == result["summary"]["dino_i_input"]["mean"] == 1
    assert result["real"]["clip_i"] < 1
    photographs = [replace(one, render=None) for one in SUBJECTS]
    with pytest.raises(ValueError, match="only the miniature's own world can do"):
        run(
            evaluation(None, tmp_path / "x", subjects=photographs, method=Anchor("rendering")), encoders, progress=False
        )


def test_the_class_word_can_stand_where_the_subjects_word_stood(tiny):
    """Fig. 17: without local branch that is the prompt with the class name, in ELITE's keys and values."""
    one = SUBJECTS[0]
    words = Elite(tiny, words="class").concept(one).words
    ids = tiny.tokenizer("dog", add_special_tokens=False).input_ids
    assert words.equal(tiny.text_encoder.get_input_embeddings().weight[ids])
    pictures = Elite(tiny, words="class").draw(one, one.prompts, [1, 2, 3], FEW)
    assert [picture.tobytes() for picture in pictures] != [
        picture.tobytes() for picture in Elite(tiny).draw(one, one.prompts, [1, 2, 3], FEW)
    ]


def test_compact_json_reads_back(whole):
    value = json.loads((whole / RESULT).read_text())
    assert json.loads(compact(value)) == value
    assert all(math.isfinite(one["mean"]) for one in value["summary"].values())


def start(folder: Path, processes: int = 1) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.evaluation.run_small", str(folder)]
    if processes > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_launched_on_two_processes_or_killed_half_way_it_ends_in_the_same_bytes(tmp_path):
    for folder, processes in (("one", 1), ("two", 2)):
        process = start(tmp_path / folder, processes)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    killed = start(tmp_path / "killed")
    while len(list((tmp_path / "killed").rglob("*-*.png"))) < 5:
        assert killed.poll() is None, killed.stderr.read()[-2000:]
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    _, errors = start(tmp_path / "killed").communicate(timeout=300)
    assert digests(tmp_path / "one") == digests(tmp_path / "two"), errors
    parts = {name for name in digests(tmp_path / "killed") if name.endswith(".part")}  # what was being written
    left = digests(tmp_path / "killed")
    assert {name: left[name] for name in set(left) - parts} == digests(tmp_path / "one")
