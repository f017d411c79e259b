"""``python -m elite.cli``, as ``accelerate launch`` starts it."""

from . import main

main()
