#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What pins break: how often, with pins and without.

Runs the selftests that count it in a kernel under QEMU, once in each mode."""

import argparse
import os
import pathlib
import re
import subprocess
import sys

sys.dont_write_bytecode = True
import lib
from lib import BUILD, REPO, Progress, fail

VM = REPO / "tools/testing/selftests/nopin/vm.sh"
OUT = BUILD / "demo"

# Program, test, and what it counts
ROWS = (
    ("moment", "moment.snapshot", "snapshots by userfaultfd: pages that change in them"),
    ("moment", "moment.pagemap_scan",
     "checkpoints by PAGEMAP_SCAN: pages that changed untold"),
    ("moment", "moment.soft_dirty_shmem",
     "checkpoints by soft-dirty bits: pages that changed untold"),
    ("moment", "moment.freeze_xfs", "backups of a frozen XFS: pages that change meanwhile"),
    ("moment", "moment.clone_btrfs", "clones of a file on btrfs: pages that change, EUCLEAN, EIO"),
    ("breaks", "range.collapse.reads", "FALLOC_FL_COLLAPSE_RANGE: reads that are lost"),
    ("breaks", "range.insert.reads", "FALLOC_FL_INSERT_RANGE: reads that are lost"),
    ("breaks", "range.zero.reads", "FALLOC_FL_ZERO_RANGE: reads that are lost"),
    ("breaks", "range.punch.reads", "FALLOC_FL_PUNCH_HOLE: reads that are lost"),
    ("breaks", "move.uffd", "UFFDIO_MOVE: pages that cannot be moved"),
    ("breaks", "global.limit", "buffers of 48 KiB, limit of 64 KiB, registered: refused"),
    ("breaks", "file.xfs", "mapping of a file registered, XFS: refused"),
    ("breaks", "file.dax", "mapping of a file registered, ext4 with DAX: refused"),
)
HEAD = """What pins break. Same programs, kernel and disk in both columns. But for the last three rows,
reads into the memory are in flight"""
FORM = "%-59s %15s %15s"


def run(image, mode, progress):
    """Yields a report for each row."""
    programs = sorted({program for program, _, _ in ROWS}, reverse=True)
    tests = {test.rpartition(".")[2]: None for _, test, _ in ROWS}
    argv = [str(VM), mode, "plain", *programs, "--"]
    for test in tests:
        argv += ["-t", test]
    env = dict(os.environ, VM_RUN="--kernel %s" % image.resolve())
    log = OUT / ("breaks-%s.log" % mode)
    seen, name = {}, None
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as f, \
            subprocess.Popen(argv, cwd=REPO, env=env, stdin=subprocess.DEVNULL, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             errors="replace") as vm:
        for line in vm.stdout:
            f.write(line)
            m = re.match(r"#\s+RUN\s+(\S+)", line)
            if m:
                name = m.group(1)
            m = re.match(r"# (\d+) of (\d+) ", line)
            if m and name and name not in seen:
                seen[name] = int(m.group(1)), int(m.group(2))
                progress.step("last %s, %s" % (name, mode))
    if vm.returncode:
        fail("%s failed: see %s" % (VM.name, log.relative_to(REPO)))
    for _, test, _ in ROWS:
        if test not in seen:
            fail("%s, %s: no result, see %s" % (test, mode, log.relative_to(REPO)))
        yield {"job": test, "mode": mode, "wrong": seen[test][0], "all": seen[test][1]}


def measure(image):
    """Reports of both modes."""
    progress = Progress("What pins break", 2 * len(ROWS))
    return [report for mode in lib.MODES for report in run(image, mode, progress)]


def table(reports):
    """Lines to print."""
    by_job = {(r["job"], r["mode"]): "%(wrong)d of %(all)d" % r for r in reports}
    yield HEAD
    yield ""
    yield FORM % ("wrong, of all", "pin", "nopin")
    for _, test, what in ROWS:
        yield FORM % (what, *(by_job.get((test, mode), "-") for mode in lib.MODES))


def problems(reports):
    """What must not be."""
    for r in reports:
        if r["mode"] == "nopin" and r["wrong"]:
            yield "%(job)s, %(mode)s: %(wrong)d of %(all)d went wrong" % r


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", metavar="IMAGE", type=pathlib.Path,
                        help="a bzImage; without, build/plain is built and used")
    args = parser.parse_args()
    if not args.kernel:
        lib.build_kernel()
    reports = measure(args.kernel or lib.IMAGE)
    print("\n".join(table(reports)))
    bad = list(problems(reports))
    for line in bad:
        print("breaks: FAILED: " + line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
