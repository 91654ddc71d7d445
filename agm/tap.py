"""What twistd asks for ``twistd agm``: its options, and the service made of them."""

from agm.app.options import Options
from agm.app.start import make_service as makeService

__all__ = ["Options", "makeService"]
