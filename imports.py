"""Imports that take a second or two, made as quick as they can be."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import without the garbage collector, and let it never look at what was imported.

    It would search the many objects that modules are made of again and again, and once more at the end of the
    process, and find nothing to free: together more than half a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
