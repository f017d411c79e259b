"""Twelve pictures in the layout of a downloaded subset, as the tests of the data use them."""

from __future__ import annotations

from tests.data.conftest import _subset, subset  # noqa: F401 (fixtures)
