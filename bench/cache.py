#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# Cache and TLB misses of an I/O, and lines that move from one processor to another: with
# page pins and without, as a model of a processor has them. cache.c is that model.

import argparse
import bisect
import collections
import os
import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True
import insns
import lib
import pools
from lib import Progress, fail

OUT = lib.BUILD / "cache"
PLUGIN = OUT / "cache.so"

# The programs call it at the start and at the end of what counts, and nobody else has code
# at such an address
MARK = "now_ns"
AT_AN_ADDRESS = ("-fno-inline", "-fno-ipa-sra", "-no-pie", "-Wl,-Ttext-segment=0x10000000")

# What is counted: enum count of cache.c
COUNTS = ("accesses", "l1", "l2", "llc", "tlb", "stlb", "moved-read", "moved-write", "taken")
SUMS = {"moved": ("moved-read", "moved-write")}
# Columns of the table
COLUMNS = ("l1", "l2", "llc", "tlb", "stlb", "moved", "taken")
TITLES = {"l1": "L1D misses", "l2": "L2 misses", "llc": "LLC misses", "tlb": "dTLB misses",
          "stlb": "STLB misses", "moved": "lines moved", "taken": "lines taken"}

# The bars: no more of each column than pin has, but for this
TOLERANCE = 0.02
# Two processors do not take the same turns in each run
SHARED_TOLERANCE = 0.1

# Of pools.py, with one processor
POOLS = ("4k-psync-4g", "4k-registered-4g", "4k-psync-4g-huge", "4k-registered-4g-huge")
# A pool in quarters: what program pool does between two calls of now_ns(), of nine
QUARTERS = {"cold": 1, "warm": 7}
POOL_MARKS = 10
# The timer's interrupt, and the return from it
TICK = ("asm_sysvec_apic_timer_interrupt", "native_irq_return_iret")
# Of share.c, with two processors
SHARED = ("near", "far", "same", "pool", "remote")
SHARED_IOS = 50000
SHARED_MARKS = 2


def counted(values):
    """The counts by name, sums as well."""
    result = dict(zip(COUNTS, values))
    for name, parts in SUMS.items():
        result[name] = sum(result[p] for p in parts)
    return result


class Section:
    """What cache.c has counted between two marks."""

    def __init__(self):
        self.regions, self.sites = {}, {}

    def add(self, words):
        if words[0] == "region":
            self.regions[words[1]] = counted(map(int, words[2:]))
        else:
            key = words[0] if words[0] == "user" else int(words[0], 16)
            self.sites[key] = counted(map(int, words[1:]))

    def total(self):
        return {name: sum(r[name] for r in self.regions.values())
                for name in (*COUNTS, *SUMS)}

    def functions(self, addrs, names, places=False):
        """The counts by function, or by instruction."""
        result = collections.defaultdict(collections.Counter)
        for addr, counts in self.sites.items():
            name = "(user)"
            if addr != "user":
                i = bisect.bisect(addrs, addr) - 1
                name = names[i] if i >= 0 else "?"
                if places and i >= 0:
                    name += "+%#x" % (addr - addrs[i])
            result[name].update(counts)
        return result


def sections(path):
    section = Section()
    with open(path, encoding="ascii") as f:
        for line in f:
            if line == "end\n":
                yield section
                section = Section()
            else:
                section.add(line.split())


def mark_of(program):
    """The address of MARK."""
    addrs, names = insns.symbols(program)
    if MARK not in names:
        fail("%s: no %s" % (program, MARK))
    return addrs[names.index(MARK)]


def build():
    lib.compile_c("cache.c", PLUGIN, "-shared", "-fPIC")
    lib.compile_c("pool.c", OUT / "pool", *AT_AN_ADDRESS, "-luring")
    lib.compile_c("share.c", OUT / "share", *AT_AN_ADDRESS, "-pthread", "-luring")


def guest(image, vmlinux, name, program, marks, more, options, plan):
    """Run a plan. Yields each report and its sections."""
    fd, out = tempfile.mkstemp(prefix="cache.", dir=OUT)
    os.close(fd)
    try:
        plugin = "%s,mark=%#x,marks=%d,out=%s%s" % (
            PLUGIN, mark_of(OUT / program), marks, out, more)
        reports = lib.guest(image, OUT / (name + ".console"), [*options, "--plugin", plugin],
                            plan, Progress(name, len(plan["runs"])), timeout=7200)
        found = list(sections(out))
    finally:
        pathlib.Path(out).unlink()
    head = reports.pop(0)
    # They have an ID of the build
    if bytes.fromhex(head["notes"]) not in vmlinux.read_bytes():
        fail("%s is not of the kernel %s" % (vmlinux, image))
    for r in reports:
        for problem in lib.pin_problems(r):
            fail(problem)
    each = marks - 1
    found = found[len(plan["warm"]) * each:]
    if len(found) != len(reports) * each:
        fail("%s: %d sections, not %d" % (name, len(found), len(reports) * each))
    for i, r in enumerate(reports):
        yield r, found[i * each:(i + 1) * each]


def measure_pools(image, vmlinux, jobs, visits):
    """(job, "cold" or "warm", mode, I/Os, section), of pools.py's jobs."""
    most = max(pools.parse(job)[2] for job in jobs)

    def argv(job, n):
        return [str(OUT / "pool"), *pools.argv(job, n)[1:]]

    plan = {"setup": [], "runs": [{"job": job, "mode": mode, "argv": argv(job, visits)}
                                  for job in jobs for mode in lib.MODES],
            "warm": [argv("4k-%s-32m" % engine, 1) for engine in ("psync", "registered")]}
    # Of one processor: the time is that of instructions, and the plugin needs no lock
    options = ["--icount", "--mem", "%dM" % ((most >> 20) * 5 // 4 + 768),
               "--append", lib.APPEND + lib.NULL_BLK]
    for r, found in guest(image, vmlinux, "pools", "pool", POOL_MARKS, "", options, plan):
        for which, i in QUARTERS.items():
            yield r["job"], which, r["mode"], r["ios"] // 4, found[i]


def measure_shared(image, vmlinux, symbols, jobs):
    """The same of two processors."""
    addrs, names = symbols
    for name in TICK:
        if name not in names:
            fail("%s: no %s" % (vmlinux, name))
    # In the time of an I/O there would be many times as many of them as there are
    tick = ",skip=%#x,until=%#x" % tuple(addrs[names.index(name)] for name in TICK)
    plan = {"setup": [], "runs": [{"job": job, "mode": mode,
                                   "argv": [str(OUT / "share"), job, str(SHARED_IOS),
                                            "/dev/nullb0"]}
                                  for job in jobs for mode in lib.MODES],
            "warm": [[str(OUT / "share"), job, "1000", "/dev/nullb0"] for job in SHARED]}
    # Without the TSC, the clock is a device of which each access takes a lock.
    # QEMU must have a thread for each. With one for both, or counting instructions, the
    # processors would take turns of many I/Os each, and no line would move meanwhile
    options = ["--cpus", "2", "--mem", "3G", "--append",
               lib.APPEND + lib.NULL_BLK + " null_blk.poll_queues=1 tsc=reliable"]
    for r, found in guest(image, vmlinux, "shared", "share", SHARED_MARKS, tick,
                          options, plan):
        yield r["job"], "", r["mode"], r["ios"], found[0]


def measure(image, vmlinux, jobs, visits=1):
    """A report for each job, quarter and mode, with its section."""
    build()
    shared = [j for j in jobs if j in SHARED]
    others = [j for j in jobs if j not in SHARED]
    results = []
    if shared:
        results += measure_shared(image, vmlinux, insns.symbols(vmlinux), shared)
    if others:
        results += measure_pools(image, vmlinux, others, visits)
    return [{"job": (job + " " + which).strip(), "mode": mode, "ios": ios, "section": section,
             "per_io": {name: n / ios for name, n in section.total().items()}}
            for job, which, mode, ios, section in results]


def pairs(reports):
    """job: {mode: report}"""
    found = {}
    for r in reports:
        if "per_io" in r:
            found.setdefault(r["job"], {})[r["mode"]] = r
    return {job: modes for job, modes in found.items() if len(modes) == len(lib.MODES)}


def is_shared(job):
    return job in SHARED


def columns(job):
    """Of one processor nothing moves."""
    return COLUMNS if is_shared(job) else COLUMNS[:5]


def table(reports):
    yield "%-28s %-6s %9s" % ("per I/O", "", "accesses") + \
        "".join("%9s" % c for c in COLUMNS)
    for job, modes in pairs(reports).items():
        for mode in lib.MODES:
            values = modes[mode]["per_io"]
            yield "%-28s %-6s %9.1f" % (job, mode, values["accesses"]) + \
                "".join("%9.3f" % values[c] for c in columns(job))
        pin, nopin = (modes[m]["per_io"] for m in lib.MODES)
        yield "%-28s %-6s %9.3f" % ("", "ratio", nopin["accesses"] / pin["accesses"]) + \
            "".join("%9s" % ("%.3f" % (nopin[c] / pin[c]) if pin[c] >= TOLERANCE else "-")
                    for c in columns(job))


def regions_table(modes):
    """By kind of memory."""
    yield "  %-36s" % "kind of memory" + "".join("%20s" % c for c in COLUMNS)
    for kind in modes["pin"]["section"].regions:
        yield "  %-36s" % kind + "".join(
            "%20s" % " / ".join("%.3f" % (r["section"].regions[kind][c] / r["ios"])
                                for r in (modes[m] for m in lib.MODES))
            for c in COLUMNS)


def functions_table(modes, symbols, column, top, places):
    """Who has more of something without pins, and who has less."""
    found = {m: {f: {c: n / r["ios"] for c, n in counts.items()} for f, counts in
                 r["section"].functions(*symbols, places).items()}
             for m, r in modes.items()}
    names = set().union(*found.values())

    def of(mode, name):
        return found[mode].get(name, {}).get(column, 0)

    def key(name):
        return -abs(of("nopin", name) - of("pin", name)), -of("nopin", name), name

    yield "  %-44s %9s %9s %10s" % (TITLES[column] + ", by " + (
        "instruction" if places else "function"), "pin", "nopin", "difference")
    for name in sorted(names, key=key)[:top]:
        pin, nopin = of("pin", name), of("nopin", name)
        if max(pin, nopin) < 0.001:
            continue
        yield "  %-44s %9.3f %9.3f %+10.3f" % (name, pin, nopin, nopin - pin)


def bars(reports):
    """(job, what, how much more of it there is without pins, and how much may be)"""
    for job, modes in pairs(reports).items():
        pin, nopin = (modes[m]["per_io"] for m in lib.MODES)
        for c in columns(job):
            yield job, TITLES[c], nopin[c] - pin[c], \
                SHARED_TOLERANCE if is_shared(job) else TOLERANCE


def main():
    parser = argparse.ArgumentParser(
        description="Compare the cache misses, TLB misses and moves of lines between "
        "processors per I/O, with page pins and without, and say where they are. A JOB "
        "is one of pools.py, or of two processors: " + ", ".join(SHARED) + ". Without: " +
        ", ".join((*POOLS, *SHARED)))
    parser.add_argument("--visits", type=int, default=1, metavar="N",
                        help="reads into each buffer of a pool, on average (1)")
    parser.add_argument("--functions", choices=COLUMNS, action="append", default=[],
                        metavar="WHAT", help="print by function where these are: " +
                        ", ".join(COLUMNS) + "; repeatable")
    parser.add_argument("--places", action="store_true",
                        help="with --functions: each instruction on its own")
    parser.add_argument("--top", type=int, default=15, metavar="N",
                        help="with --functions: so many (15)")
    parser.add_argument("--kernel", metavar="IMAGE", type=pathlib.Path,
                        help="a bzImage; without, build/plain is built and used")
    parser.add_argument("--vmlinux", metavar="FILE", type=pathlib.Path,
                        help="with the symbols of IMAGE")
    parser.add_argument("job", nargs="*", metavar="JOB",
                        help="like 4k-psync-512m, 4k-registered-4g-huge, near")
    args = parser.parse_args()
    if bool(args.kernel) != bool(args.vmlinux):
        parser.error("--kernel and --vmlinux belong together")
    if not args.kernel:
        lib.build_kernel()
    image, vmlinux = args.kernel or lib.IMAGE, args.vmlinux or lib.VMLINUX
    jobs = args.job or [*POOLS, *SHARED]

    reports = measure(image, vmlinux, jobs, args.visits)
    print("\n".join(table(reports)))
    if not args.functions:
        return
    symbols = insns.symbols(vmlinux)
    for job, modes in pairs(reports).items():
        print("\n%s, per I/O, pin / nopin" % job)
        print("\n".join(regions_table(modes)))
        for column in args.functions:
            if column in columns(job):
                print("\n".join(functions_table(modes, symbols, column, args.top,
                                                args.places)))


if __name__ == "__main__":
    main()
