# SPDX-License-Identifier: GPL-2.0
"""Which kernel the scripts here are for, and where things are: see lib.sh."""

import os
import sys

REPO = os.path.realpath(os.path.join(os.path.dirname(__file__), "../../.."))
KERNEL = os.environ.get("KERNEL") or "6.12"
if KERNEL not in ("6.12", "7.3"):
    sys.exit(f"KERNEL={KERNEL} in the environment: there are 6.12 and 7.3")
BUILD = os.path.join(REPO, "build", *([] if KERNEL == "6.12" else [KERNEL]))
PATCHES = os.path.join(REPO, "patches", KERNEL)
