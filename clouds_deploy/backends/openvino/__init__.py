"""OpenVINO: its session and the rewrites that it needs."""
