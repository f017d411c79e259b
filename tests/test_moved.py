"""Import paths of 0.1 still lead to the very modules that took their place."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

from elite._moved import MOVED, PROMISED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_gives_the_module_at_its_new_place(monkeypatch, old):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert [MOVED[old] in str(w.message) for w in said if old in str(w.message)] == ([] if old in PROMISED else [True])


def test_what_lies_in_a_folder_that_moved_is_not_loaded_twice():
    with pytest.warns(DeprecationWarning, match=r"elite\.commands\.generate is elite\.cli\.generate"):
        from elite.commands.generate import Sampler
    from elite.cli.generate import Sampler as now

    assert Sampler is now
