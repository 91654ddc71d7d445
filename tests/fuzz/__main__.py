"""
Fuzzing for longer than a test may take: ``python -m tests.fuzz --help``.

What fails is printed with the input that makes it fail, as Python writes bytes, and the exit status is 1.
"""

from __future__ import annotations

import sys

if "--atheris" in sys.argv:  # it has to see what it watches when that is imported
    import atheris  # type: ignore[import-not-found]  # not among the dependencies of the tests

    with atheris.instrument_imports(include=["agm"]):
        from tests.fuzz.command import main
else:
    from tests.fuzz.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
