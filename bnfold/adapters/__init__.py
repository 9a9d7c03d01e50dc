"""Adapters: each reads one kind of model into a Graph, and applies a Plan to it."""
