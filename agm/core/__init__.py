"""The pure core: bytes and values in, values out.  No reactor, clock, file or log is touched here."""
