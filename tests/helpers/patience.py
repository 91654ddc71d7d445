"""
A dialogue that waits for ever fails, and its traceback ends where it waits.

The coroutine of a test is cancelled, so that the Deferred it waits for raises right there.  What blocks the reactor, or
waits in a fixture, is ended by pytest-timeout a little later, with the stacks of all threads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

#: Seconds; less than ``timeout`` in pyproject.toml.
PATIENCE = 90.0


def _where_it_waits(cancelled: Failure, seconds: float) -> Failure:
    """Keep the traceback of what was cancelled."""
    print(f"given up after {seconds:g} s: it waits where the traceback ends")
    return cancelled


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Give the coroutine of a test a limited time."""
    test: Any = pyfuncitem.obj
    if not hasattr(test, "hypothesis"):

        @functools.wraps(test)
        def limited(*args: Any, **kwargs: Any) -> Any:
            result = test(*args, **kwargs)
            if inspect.iscoroutine(result):
                from twisted.internet import reactor

                result = Deferred.fromCoroutine(result).addTimeout(PATIENCE, cast(Any, reactor), _where_it_waits)
            return result

        pyfuncitem.obj = limited
    return (yield)
