"""What only GPUs can tell."""
