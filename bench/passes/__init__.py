"""Fusion passes as vLLM's users write them, to measure a pattern matcher with."""
