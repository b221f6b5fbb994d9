"""The only clock, and what is made of its numbers."""

import sys

from clouds_deploy import VerbModule

sys.modules[__name__].__class__ = VerbModule
