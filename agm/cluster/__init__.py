"""What several processes and machines share, behind the :class:`~agm.cluster.store.Store`."""
