"""What all others stand on: checks of what was given, files, and the versions of torch."""
