"""Settings of every test: no model hub, one thread, and test modules that can import `tests.*`."""

import os
import signal
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports a model hub
sys.path.insert(0, str(Path(__file__).parent.parent))  # for `tests.envs.strategies`, wherever pytest is started

import torch
from hypothesis import settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell starts pytest in the background
torch.set_num_threads(1)  # tests run side by side under xdist

# The machine's speed is no property of the code, and a failure must come back when the test is run again.
settings.register_profile("matsmith", deadline=None, derandomize=True, database=None)
settings.load_profile("matsmith")
