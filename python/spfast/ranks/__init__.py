"""Which ranks there are, what each has of its own, and how they share the tokens."""
