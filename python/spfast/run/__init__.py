"""One run of the pass: what stands between spfast.api and the core."""
