"""Gate of a live Triton server: every branch is the same function as its model, for every client and under load."""
