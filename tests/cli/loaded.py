"""What commands import, for processes that split off from one that has it (forked.py)."""

import numpy  # noqa: F401
import torch  # noqa: F401

import smidgen.cli.main
import smidgen.cutting.cut
import smidgen.engines.torch
import smidgen.measuring.measure
import smidgen.training.distill
import smidgen.training.tune  # noqa: F401
