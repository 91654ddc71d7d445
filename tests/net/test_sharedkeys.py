"""Layout: an attribute that comes late costs no instance a dict of its own names."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from agm.net.sharedkeys import lay_out


def sizes_of_late_ones(kind: type) -> set[int]:
    """The sizes of the attributes of a hundred instances that are there before one of them gets its last five."""
    instances: list[Any] = [kind() for _ in range(100)]
    for it in instances:
        for number in range(5):
            setattr(it, f"late{number}", number)
    return {sys.getsizeof(vars(it)) for it in instances[50:]}


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="how CPython keeps attributes")
def test_names_that_are_known_are_kept_with_the_class() -> None:
    class Unknown:
        def __init__(self) -> None:
            self.early = 1

    class Known(Unknown):
        pass

    lay_out(Known, "early", *(f"late{number}" for number in range(5)))
    assert max(sizes_of_late_ones(Known)) < min(sizes_of_late_ones(Unknown))
    assert not hasattr(Known(), "late0"), "nothing is set"
