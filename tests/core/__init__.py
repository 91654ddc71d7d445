"""Tests of the pure core: no reactor, no socket, no clock."""
