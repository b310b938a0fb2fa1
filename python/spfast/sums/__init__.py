"""Sums of reductions become reductions of sums."""
