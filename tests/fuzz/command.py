"""The command line of the long runs: mutated inputs for every target, differences to h11, growth of time, atheris."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
import zlib
from collections.abc import Sequence

from tests.fuzz import differential, growth
from tests.fuzz.mutation import inputs
from tests.fuzz.targets import TARGETS


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what reads what others send.")
    names = [*TARGETS, *differential.DIFFERENCES]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to fuzz; all of it by default: {', '.join(names)}"
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="where chance begins (%(default)s)")
    parser.add_argument(
        "--growth", action="store_true", help="measure how time grows with the size of bad inputs, instead"
    )
    parser.add_argument(
        "--atheris", metavar="SECONDS", type=int, help="one NAME, led by coverage: needs pip install atheris"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    if options.growth:
        return growth.report()
    if options.atheris is not None:
        if len(options.names) != 1 or options.names[0] not in TARGETS:
            parser.error("--atheris takes one target")
        return led_by_coverage(options.names[0], options.atheris)
    failed = 0
    for name in options.names or names:
        began = time.monotonic()
        if name in TARGETS:
            bad = fuzz(name, options.runs, options.seed)
            print(f"{name}: {options.runs} inputs, {bad} bad, {time.monotonic() - began:.0f} s", flush=True)
        else:
            outcome = differential.DIFFERENCES[name](options.runs, options.seed)
            bad = len(outcome.unexplained)
            print(f"{name}: {outcome}, {time.monotonic() - began:.0f} s", flush=True)
        failed += bad
    return 1 if failed else 0


def fuzz(name: str, runs: int, seed: int, *, most: int = 5) -> int:
    """Give a target so many inputs; stops at the `most`-th bad one, and returns how many there were."""
    target, bad = TARGETS[name], 0
    for data in inputs(target.seeds, random.Random(f"{name} {seed}"), runs, target.tokens):
        try:
            check(name, data)
        except Exception:
            bad += 1
            print(f"{name}: {data!r}\n{traceback.format_exc(limit=-4)}", flush=True)
            if bad == most:
                break
    return bad


def check(name: str, data: bytes) -> None:
    """One input for a target; chance depends on the input alone, so that a bad one stays bad."""
    TARGETS[name].check(data, random.Random(zlib.crc32(data)))


def led_by_coverage(name: str, seconds: int) -> int:
    """The same checks with inputs that atheris finds."""
    import tempfile
    from pathlib import Path

    import atheris  # type: ignore[import-not-found]  # not among the dependencies of the tests

    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(TARGETS[name].seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-verbosity=0", folder],
            lambda data: check(name, bytes(data)),
        )
        atheris.Fuzz()  # it ends the process
    return 0
