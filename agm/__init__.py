"""
agm: a local gateway for the Gemini API.

Two names are public here: ``hookimpl`` marks a plugin's functions (see :mod:`agm.hookspecs` and :mod:`agm.api`),
``__version__`` is the version; the distribution, ``agm-gateway``, takes its own from here.
"""

import pluggy

__version__ = "0.2.0"
__all__ = ["__version__", "hookimpl"]

hookimpl = pluggy.HookimplMarker("agm")
