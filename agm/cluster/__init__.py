"""
What several processes of one gateway share: workers of a machine, and machines, by way of Redis or Valkey.

Each process decides from what it knows itself; the store keeps what they know in agreement, and is asked by a request
only where a limit is nearly used up.  Without it there is none of this.
"""

from agm.cluster.cluster import Cluster
from agm.cluster.link import Away

__all__ = ["Away", "Cluster"]
