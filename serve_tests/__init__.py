"""Gate: what a live Triton serves is the same function as the model, for every client and under load."""
