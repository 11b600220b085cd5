"""What fastseg costs: timed cases for `make bench`, races against peers, soak runs."""
