# SPDX-License-Identifier: GPL-2.0
#
# What the results of bench/run say: a figure for each job, and the bars that some
# have to clear. bench/run shows them, bench/compare compares them.

import statistics

import cache
import lib
import pools

# fio tells milliseconds
TOLERANCE = 0.003
# By how much, at most, an exact figure differs from run to run
NOISE = 0.005
# Of an item of the part costs: results, and not what it is of
NOT_KEYS = ("in_flight",)
# Ends the names of storms on one processor, which are counted in instructions
COUNTED = "-1cpu"


def ratios(reports, field="iops"):
    """{job: figures of both modes}, of jobs that ran in both."""
    runs = {}
    for r in reports:
        if r.get(field):
            runs.setdefault(r["job"], {"pin": [], "nopin": []})[r["mode"]].append(r[field])
    result = {}
    for job, modes in runs.items():
        if len(modes["pin"]) != len(modes["nopin"]):
            continue
        pairs = [n / p for p, n in zip(modes["pin"], modes["nopin"])]
        result[job] = {"pin": statistics.median(modes["pin"]),
                       "nopin": statistics.median(modes["nopin"]),
                       "ratio": statistics.median(pairs),
                       "least": min(pairs), "greatest": max(pairs)}
    return result


class Bar:
    def __init__(self, what, value, bound, part, job, at_least=True, tolerance=0):
        self.what, self.value, self.bound = what, value, bound
        self.part, self.job, self.at_least = part, job, at_least
        self.tolerance = tolerance

    @property
    def met(self):
        """None if it was not measured."""
        if self.value is None:
            return None
        if self.at_least:
            return self.value >= self.bound - self.tolerance
        return self.value <= self.bound + self.tolerance

    @property
    def text(self):
        value = "not measured" if self.value is None else "%.3f" % self.value
        return "%s: %s, has to be %s %.2f%s" % (
            self.what, value, ("at most", "at least")[self.at_least], self.bound, self.slack)

    @property
    def slack(self):
        return " (within %.3f)" % self.tolerance if self.tolerance else ""

    @property
    def command(self):
        return "bench/run --only %s%s" % (self.part, " --job '%s'" % self.job if self.job else "")


def icount_bars(reports):
    jobs = ratios(reports)

    def bar(what, over, mode_over, under, mode_under, bound):
        value = None
        if over in jobs and under in jobs:
            value = jobs[over][mode_over] / jobs[under][mode_under]
        pattern = over if over == under else over.replace("io_uring", "io_uring*")
        return Bar(what, value, bound, "icount", pattern, tolerance=TOLERANCE)

    # Since 6.12 pins have become faster
    new = lib.where.KERNEL != "6.12"
    for size, bound in (("4k", 1.12), ("64k", 1.8)) if new else (
            ("4k", 1.15), ("64k", 2.0), ("1m", 3.5)):
        job = size + "-randread-psync"
        yield bar(job + ": nopin / pin", job, "nopin", job, "pin", bound)
    for size, bound in (("4k", 0.97), ("64k", 0.95), ("1m", 0.95)):
        for rw in () if new else lib.DIRECTIONS:
            job = "%s-%s-io_uring" % (size, rw)
            yield bar(job + ": nopin / registered buffers, pinned", job, "nopin",
                      job + "-registered", "pin", bound)
    for size in lib.SIZES:
        for rw in lib.DIRECTIONS:
            job = "%s-%s-io_uring-registered" % (size, rw)
            yield bar(job + ": nopin / pin", job, "nopin", job, "pin", 0.97)
    for rw in lib.DIRECTIONS:
        for engine in lib.ENGINES[:3]:
            job = "64k-%s-%s-thp" % (rw, engine)
            yield bar(job + ": nopin / pin", job, "nopin", job, "pin", 1.15)
    # Registered buffers have bars of their own
    plain = [j for j in jobs if "registered" not in j]
    across = [j for j in plain if lib.Job.named(j).across]
    for what, some in (("all", [j for j in plain if j not in across]),
                       ("those across a border of 2 MiB", across)):
        job = min(some, key=lambda j: jobs[j]["ratio"], default=None)
        yield Bar("the worst of %s%s: nopin / pin" %
                  (what, " (%d), %s" % (len(some), job) if job else ""),
                  jobs[job]["ratio"] if job else None, 0.99, "icount", job,
                  tolerance=TOLERANCE)


def costs(reports, what):
    """{what it is, in pairs of name and value: {mode: the time}} of a job of the part
    costs."""
    found = {}
    for r in reports:
        for item in r["results"] if r["job"] == what and "error" not in r else ():
            key = tuple((k, v) for k, v in item.items() if not isinstance(v, dict)
                        and k not in NOT_KEYS)
            found.setdefault(key, {})[r["mode"]] = item["ns"]
    return found


def costs_bars(reports):
    def most(what, **want):
        """Of the times with nopin relative to pin."""
        found = []
        for key, modes in costs(reports, what).items():
            key = dict(key)
            if all(key[k] == v for k, v in want.items()) and \
                    None not in [modes.get(m, {}).get("median") for m in lib.MODES]:
                found.append(modes["nopin"]["median"] / modes["pin"]["median"])
        return max(found, default=None)

    def bar(what, value, bound, job):
        return Bar(what + ": nopin / pin", value, bound, "costs", job, at_least=False)

    where = {"other-gib": "another GiB", "same-gib": "the same GiB",
             "same-2m": "the same 2 MiB"}
    for op, places in (("munmap", where), ("mprotect", ["same-gib"]),
                       ("mremap", ["same-gib"])):
        for place in places:
            yield bar("%s of another mapping, buffers in %s" % (op, where[place]),
                      most("change", op=op, place=place), 1.05, "change")
    for after, name in (("fork", "fork"), ("exited", "fork and exit of the child"),
                        ("mprotect", "mprotect to read-only and back"),
                        ("madvise", "MADV_DONTNEED")):
        yield bar("the first read into a page after " + name,
                  most("after", after=after, op="read", which="first"), 1.05, "after")
    yield bar("the first read of a process with 30000 mappings",
              most("first-default", mappings=30000, read="first"), 1.1, "first-default")
    for stage, name, bound in (("used", "in use", 0.5), ("idle", "idle for ten minutes", 0.05),
                               ("unmapped", "unmapped", 0.01)):
        yield Bar("kernel memory of buffers %s, %%, small and huge pages" % name,
                  max((i["percent"] for r in reports for i in r.get("results", ())
                       if r["job"] == "memory" and r["mode"] == "nopin" and
                       (i["pages"], i["stage"]) in (("small", stage), ("huge", stage))),
                      default=None), bound, "costs", "memory", at_least=False)
    ns = {r["mode"]: r["process_ns"]["median"] for r in reports
          if r["job"] == "processes-default" and "process_ns" in r}
    yield bar("fork, 8 reads, exit", ns["nopin"] / ns["pin"] if len(ns) == 2 else None, 1.02,
              "processes-default")


def storm_bars(reports):
    for name, has in (("fork", lambda job: job.startswith("fork")),
                      ("exec", lambda job: job.startswith("exec")),
                      ("munmap, mprotect and madvise",
                       lambda job: not job.startswith(("fork", "exec")))):
        for what, field in (("reads", "iops"), ("changes", "changes_per_s")):
            some = {job: row["ratio"] for job, row in ratios(reports, field).items()
                    if job.endswith(COUNTED) and has(job)}
            job = min(some, key=some.get, default=None)
            yield Bar("storms of %s, %s per second%s: nopin / pin" % (
                name, what, ", the worst of %d, %s" % (len(some), job) if job else ""),
                some.get(job), 0.97, "storm", job)


def bars(results):
    """All of them, measured or not."""
    parts = results["parts"]
    yield from icount_bars(parts.get("icount", ()))
    for job, what, value, bound in pools.bars(parts.get("pools", ())):
        yield Bar("%s, %s: nopin / pin" % (job, what), value, bound, "pools", job,
                  tolerance=pools.TOLERANCE)
    for job, what, value, tolerance in cache.bars(parts.get("cache", ())):
        yield Bar("%s, %s per I/O: nopin - pin" % (job, what), value, 0, "cache",
                  job.split()[0], at_least=False, tolerance=tolerance)
    yield from costs_bars(parts.get("costs", ()))
    yield from storm_bars(parts.get("storm", ()))
    scale = ratios(parts.get("scale", ()))
    job = "shared-thp-psync-2"
    yield Bar("%s, 4k, 2 processors: nopin / pin" % job,
              scale[job]["ratio"] if job in scale else None, 1.20, "scale", job)


class Figure:
    """A number, how sure it is, and whether more is better."""

    def __init__(self, value, low, high, better):
        self.value, self.low, self.high, self.better = value, low, high, better


def exact(value, better):
    return Figure(value, value * (1 - NOISE / 2), value * (1 + NOISE / 2), better)


def figures(results):
    """{name: Figure} of all that can be compared with other results."""
    found = {}
    parts = results["parts"]
    for job, row in ratios(parts.get("icount", ())).items():
        for field in ("pin", "nopin", "ratio"):
            # What pinning takes is not for us to judge
            found["icount", job, field] = exact(row[field], 0 if field == "pin" else 1)
        if row["least"] < row["greatest"]:
            found["icount", job, "ratio"] = Figure(row["ratio"], row["least"],
                                                   row["greatest"], 1)
    for row in pools.rows(parts.get("pools", ())):
        for which in ("cold", "warm"):
            found["pools", row["job"], which] = exact(row[which], 1)
    for part, field, name in (("wall", "iops", "ratio"), ("scale", "iops", "ratio"),
                              ("storm", "iops", "ratio"),
                              ("storm", "changes_per_s", "changes, ratio")):
        for job, row in ratios(parts.get(part, ()), field).items():
            found[part, job, name] = Figure(row["ratio"], row["least"], row["greatest"], 1)
    for what in ("register", "first", "first-default", "change", "busy", "after", "sparse"):
        for key, modes in costs(parts.get("costs", ()), what).items():
            label = " ".join([what, *("%s=%s" % k for k in key)])
            for mode, ns in modes.items():
                if ns["median"] is not None:
                    found["costs", label, mode] = Figure(
                        ns["median"], ns["min"] * (1 - NOISE), ns["max"] * (1 + NOISE),
                        -1 if mode == "nopin" else 0)
    for r in parts.get("costs", ()):
        for item in r.get("results", ()) if r["job"] == "memory" else ():
            n = item["kernel_per_gib"]
            # Whole pages, of 256 MiB
            found["costs", "memory %(pages)s %(stage)s" % item, r["mode"]] = Figure(
                n, n - (64 << 10), n + (64 << 10), -1 if r["mode"] == "nopin" else 0)
    for row in parts.get("split", ()):
        for field in ("all", "kernel"):
            better = -1 if row["mode"] == "nopin" and field == "kernel" else 0
            found["split", "%(job)s, %(mode)s" % row, field] = \
                exact(row[field], better)
    return found
