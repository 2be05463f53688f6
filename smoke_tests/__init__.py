"""Every room once, on small branches, in minutes: for environments of other Pythons and other library versions."""
