"""Benchmarks of spfast: workloads, peers that do the same work, and the harness that times both."""
