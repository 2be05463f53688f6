"""The tests of the suite itself: they prove that its gates can fail."""
