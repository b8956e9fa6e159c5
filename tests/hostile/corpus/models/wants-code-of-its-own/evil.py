"""Run."""

import os
import pathlib

pathlib.Path(os.environ["DELAUDIT_CANARY"]).touch()
