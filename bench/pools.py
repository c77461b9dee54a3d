# SPDX-License-Identifier: GPL-2.0
#
# Direct reads into pools of buffers that are too large for any cache, counted in
# instructions: with page pins and without, while the pool is cold and when it is warm.

import re

import lib
from lib import Progress, fail

OUT = lib.BUILD / "pools"
JOB = re.compile(r"(\d+)([kmg])-(psync|libaio|io_uring|registered)-(\d+)([mg])(-huge)?$")
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}

# Block size, engine, size of the pool, and whether it is of huge pages. The least IOPS
# nopin / pin of the first quarter of the reads, and of the last one, of four to each
# buffer on average. None: told only
JOBS = {
    "4k-psync-32m": (1.03, 1.15),
    "4k-psync-512m": (1.03, 1.15),
    "4k-psync-4g": (1.03, 1.15),
    "4k-libaio-512m": (None, None),
    "4k-io_uring-512m": (None, None),
    "8k-psync-512m": (None, None),
    "16k-psync-1g": (1.25, 1.40),
    "16k-psync-1g-huge": (1.10, 1.15),
    "64k-psync-1g": (None, None),
    "64k-psync-1g-huge": (None, None),
    "4k-registered-1g": (0.97, 0.97),
    "16k-registered-1g": (0.97, 0.97),
    "64k-registered-1g": (0.97, 0.97),
    "16k-registered-1g-huge": (None, None),
    "4k-registered-4g": (0.97, 0.97),
    "16k-registered-4g": (0.97, 0.97),
    "64k-registered-4g": (0.97, 0.97),
}
# Pinned buffers have become faster
if lib.where.KERNEL == "7.3":
    JOBS.update({"%s-registered-%s" % (size, pool): (0.93, 0.93)
                 for size in ("4k", "16k") for pool in ("1g", "4g")})
DEMO = ("4k-psync-512m", "16k-registered-1g")
TOLERANCE = 0.005


def parse(job):
    match = JOB.match(job)
    if not match:
        fail("%s: a job is called like 4k-psync-512m or 16k-registered-1g-huge" % job)
    number, unit, engine, size, size_unit, huge = match.groups()
    return int(number) * UNITS[unit], engine, int(size) * UNITS[size_unit], bool(huge)


def argv(job, visits):
    block, engine, size, huge = parse(job)
    return [str(OUT / "pool"), "-b", str(block), "-m", str(size >> 20), "-e", engine,
            "-v", str(visits), *(["-H"] if huge else []), "/dev/nullb0"]


def build():
    lib.compile_c("pool.c", OUT / "pool", "-luring")


def measure(image, jobs, visits=4):
    """Reports of bench/guest, one for each job and mode."""
    most = max(parse(job)[2] for job in jobs)
    runs = [{"job": job, "mode": mode, "argv": argv(job, visits)}
            for job in jobs for mode in lib.MODES]
    warm = [argv("4k-%s-32m" % engine, 1)
            for engine in ("psync", "libaio", "io_uring", "registered")]
    return lib.guest(image, OUT / "pools.console",
                     ["--icount", "--mem", "%dM" % ((most >> 20) * 5 // 4 + 768), "--append",
                      lib.APPEND + lib.NULL_BLK],
                     {"setup": [], "warm": warm, "runs": runs},
                     Progress("pools of buffers, counting instructions", len(runs)),
                     timeout=7200)


def rows(reports):
    """Of each job: the quarters of both modes, and the ratios of the first and the last."""
    by_job = {}
    for r in reports:
        if "quarters" in r:
            by_job.setdefault(r["job"], {})[r["mode"]] = r["quarters"]
    for job, q in by_job.items():
        if len(q) == 2:
            ratio = [n / p for n, p in zip(q["nopin"], q["pin"])]
            yield {"job": job, "pin": q["pin"], "nopin": q["nopin"],
                   "cold": ratio[0], "warm": ratio[-1]}


def table(reports):
    form = "%-24s %9s %9s %7s %11s %9s %7s"
    yield form % ("pool", "pin cold", "nopin", "ratio", "pin warm", "nopin", "ratio")
    for row in rows(reports):
        k = [["%.1fk" % (v / 1000) for v in row[mode]] for mode in lib.MODES]
        yield form % (row["job"], k[0][0], k[1][0], "%.3f" % row["cold"],
                      k[0][-1], k[1][-1], "%.3f" % row["warm"])


def bars(reports):
    """(job, "cold" or "warm", its ratio or None, the bar)"""
    found = {row["job"]: row for row in rows(reports)}
    for job, least in JOBS.items():
        for what, bound in zip(("cold", "warm"), least):
            if bound:
                yield job, what, found.get(job, {}).get(what), bound


def missed(reports):
    """Bars that were not reached."""
    for job, what, ratio, bound in bars(reports):
        if ratio and ratio < bound - TOLERANCE:
            yield "%s, %s: %.3f times the IOPS of pin, not %.2f" % (job, what, ratio, bound)
