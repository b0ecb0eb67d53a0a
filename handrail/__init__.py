"""Handrail: a distributed runtime for agents that act. This package is the public API."""
