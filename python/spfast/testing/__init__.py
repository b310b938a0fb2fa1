"""A kit for testing rewrites of tensor-parallel graphs without accelerators.

``ops`` declares the custom ops that captured graphs use, ``lockstep`` runs every rank's graph in
one process, ``gloo`` runs a function on real processes, ``graphs`` draws small random
tensor-parallel graphs.
"""
