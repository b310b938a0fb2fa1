"""Doors into other projects; none of them is imported unless it is already there."""
