"""
agm: a local gateway for the Gemini API.

Two names are public here: ``hookimpl`` marks a plugin's functions (see :mod:`agm.hookspecs` and :mod:`agm.api`),
``__version__`` is the version of the installed package.
"""

import pluggy

__version__ = "0.1.0"
__all__ = ["__version__", "hookimpl"]

hookimpl = pluggy.HookimplMarker("agm")
