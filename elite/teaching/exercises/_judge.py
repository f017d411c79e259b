"""How an exercise is checked: run the reader's function, and say in words what differs from the equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

RIGHT, WRONG = "✓", "✗"


def judge(
    name: str,
    answer: Callable[..., Any],
    arguments: Mapping[str, Any],
    expected: Tensor,
    *,
    mistakes: Mapping[str, Callable[[], Tensor]],
    shape: str,
    praise: str,
    tolerance: float = 1e-4,
) -> None:
    """Print whether the reader's function gives the expected tensor, and if not, which mistake it looks like.

    Args:
        name: name of the exercise, with which every message begins.
        answer: the reader's function; called with ``arguments`` by position.
        arguments: names and values of what it is given; the names appear in messages.
        expected: what it should return.
        mistakes: for each known mistake the message that explains it, and a function that makes it.
        shape: what the shape means, "(batch, words, d)".
        praise: what to say when it is right.
        tolerance: largest difference that still counts as equal, relative to the largest expected value.
    """
    copies = [_copy(value) for value in arguments.values()]
    result, stopped = attempt(lambda: answer(*copies))
    if stopped:
        given = ", ".join(_describe(key, value) for key, value in arguments.items())
        return fail(name, f"{stopped} It was given {given}.")
    if result is None:
        return fail(name, "your function returns nothing yet. Fill in its body and return the result.")
    if not isinstance(result, Tensor):
        if not isinstance(result, (int, float)) or expected.ndim:
            kind = type(result).__name__
            return fail(name, f"your function returns a {kind}; it should return a tensor {shape}.")
        result = torch.tensor(float(result))
    close = tolerance * max(float(expected.abs().max()), 1e-6)
    for message, make in mistakes.items():
        if _same(result, make(), close):
            return fail(name, message)
    if result.shape != expected.shape:
        got, want = tuple(result.shape), tuple(expected.shape)
        return fail(name, f"the result has shape {got}; it should be {want}, which is {shape}.")
    if _same(result, expected, close):
        changed = [
            key for (key, value), copy in zip(arguments.items(), copies, strict=True) if not _unchanged(value, copy)
        ]
        if changed:
            return fail(name, f"the values are right, but your function changes its argument {changed[0]} in place.")
        print(f"{RIGHT} {name}: {praise}")
        return None
    difference = (result.float() - expected.float()).abs()
    if not bool(torch.isfinite(difference).all()):
        return fail(name, "the result holds values that are not finite numbers; look for a division by zero.")
    index = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    where = f" at {index}" if index else ""
    yours, right = float(result[index]), float(expected[index])
    return fail(name, f"the shape is right, the values are not:{where} yours is {yours:.3f}, it should be {right:.3f}.")


def attempt(run: Callable[[], Any]) -> tuple[Any, str]:
    """Run a reader's code: its result and "", or None and a sentence on how it stopped."""
    try:
        return run(), ""
    except Exception as error:  # a reader's function may raise anything; the sentence is the feedback
        return None, f"your function stopped with {type(error).__name__}: {error}."


def fail(name: str, message: str) -> None:
    """Print what is wrong."""
    print(f"{WRONG} {name}: {message}")


def noise(*shape: int, seed: int) -> Tensor:
    """Normal random numbers that are the same on every machine."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _same(result: Tensor, other: Tensor, close: float) -> bool:
    return result.shape == other.shape and bool((result.float() - other.float()).abs().max() <= close)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _unchanged(value: Any, copy: Any) -> bool:
    if isinstance(value, Tensor):
        return torch.equal(value, copy)
    return all(map(_unchanged, value, copy)) if isinstance(value, list) else True


def _describe(key: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{key} {tuple(value.shape)}"
    if isinstance(value, list):
        return f"{key}, a list of {len(value)}"
    return key if callable(value) else f"{key} = {value}"
