"""Seeds: each random draw is a function of one seed and its purpose."""
