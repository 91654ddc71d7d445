"""
Plugins that come with agm and are off until ``[plugins] load`` names them; docs/contrib.md describes them.

They are written against :mod:`agm.api` alone, as anybody's.
"""
