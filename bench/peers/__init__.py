"""Other ways to do the same rewrite, one file each; every one is the best honest version of itself."""
