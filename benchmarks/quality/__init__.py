"""What `fastseg check` finds, how often it is wrong, and how long it takes."""
