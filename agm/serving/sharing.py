"""
Sharing: which of the resources that were made through the gateway a client key may see.

Interactions answer to the key or team that made them; all else as ``[auth] resources`` says.  Whoever has made one is
known to :mod:`agm.core.ownership`; what the gateway did not see made is nobody's.
"""

from __future__ import annotations

from collections.abc import Iterable

from agm.core import ownership
from agm.core.client_keys import ClientKey
from agm.core.errors import NotFound
from agm.core.ownership import Maker
from agm.serving.context import ServingContext


def maker_of(key: ClientKey | None) -> Maker:
    """Tell whose a request's resources are; without a client key they are those of all who have none."""
    return Maker() if key is None else Maker(key.name, key.team or "")


def sees(context: ServingContext, asking: Maker, name: str) -> bool:
    """
    Tell whether a resource answers to whoever asks.

    :param name: as :func:`agm.core.ownership.root` gives it.
    """
    private = ownership.is_private(name)
    by = context.config.auth.resources
    if by == "shared" and not private:
        return True
    made_by = context.ownership.maker(name)
    if made_by is None:
        return asking == Maker()
    return made_by.shares(asking, by="team" if private else by)


def check_sees(context: ServingContext, asking: Maker, names: Iterable[str], *, known: bool = True) -> None:
    """
    Refuse a request that names what does not answer to whoever asks, in the same words as what nobody has.

    :param known: whether only what the gateway has seen made counts: a body may hold ids of Google's own.
    :raises NotFound: for the first such name.
    """
    for name in names:
        private = ownership.is_private(name)
        if known and not private and context.ownership.owner(name) is None:
            continue
        if not sees(context, asking, name):
            whom = "this client key or its team" if private or context.config.auth.resources == "team" else "this key"
            raise NotFound(
                f"{name} is not known here, or was not made with {whom} through this gateway.",
                reason="RESOURCE_NOT_YOURS",
            )
