"""Running a bundle: one session a backend, pre- and post-processing shared by all."""
