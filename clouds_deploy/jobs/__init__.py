"""Work on many files, cut into units that are done once: on this machine or on a Ray cluster."""
