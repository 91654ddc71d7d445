"""Tests of the emulator: pure ones without a reactor, and a few on loopback."""
