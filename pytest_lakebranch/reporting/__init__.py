"""What a run says of its branches."""
