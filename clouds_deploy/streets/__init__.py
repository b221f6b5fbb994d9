"""Synthetic street scenes with labels: the offline default data set and the project's test bed."""

from clouds_deploy.streets.clip import Clip, Frame
from clouds_deploy.streets.scene import DOMAINS, Scene, render

__all__ = ["DOMAINS", "Clip", "Frame", "Scene", "render"]
