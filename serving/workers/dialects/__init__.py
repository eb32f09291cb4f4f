"""What people's handlers look like: one file a dialect; each runs inside a worker."""
