"""Segmentation over HTTP: the KServe v2 protocol for tensors, a small API for pictures, a page for people."""
