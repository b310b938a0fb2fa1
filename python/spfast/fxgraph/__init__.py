"""Reads and edits graphs of torch.fx; some of it is called back by the core."""
