"""ELITE: one picture of a subject becomes words and patch embeddings that a text-to-image model understands.

The public names stand in ``__init__.pyi`` and load on first use, so that ``import elite`` stays quick.
"""

import lazy_loader

from . import _moved as _moved

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
