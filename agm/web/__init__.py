"""The HTTP face of the gateway: a twisted.web resource tree and the relay of answers."""
