"""Other ways to do the same rewrite, one file each; each the best honest one of its kind."""
