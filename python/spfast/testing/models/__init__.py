"""Whole tensor-parallel models, small enough for tests: Hugging Face's and hand-written ones.

``families`` names them, ``hf`` and ``handmade`` build them, ``capture`` records their graphs as
Inductor's post-grad custom pass sees them.
"""
