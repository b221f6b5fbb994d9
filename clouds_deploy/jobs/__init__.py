"""Jobs on many files, in units that are processed once each: on this machine or on a Ray cluster."""
