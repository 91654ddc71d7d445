"""Tests of the Anthropic dialect."""
