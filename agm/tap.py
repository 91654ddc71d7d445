"""What twistd asks for ``twistd agm``: its options, and the service made of them."""

from agm.app.assemble import make_service as makeService
from agm.app.options import Options

__all__ = ["Options", "makeService"]
