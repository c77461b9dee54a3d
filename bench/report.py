# SPDX-License-Identifier: GPL-2.0
#
# The results of bench/run as a page of tables, and as plots.

import json
import subprocess

import cache
import lib
import pools
import suite

# The page is of the first one, and has figures of the other one beside them
KERNEL, OTHER = "6.12", "7.3"

COLORS = {"psync": "#2b6ca3", "libaio": "#c9a24a", "io_uring": "#5a9a5a",
          "io_uring-registered": "#aa3333"}
MODE_COLORS = {"pin": "#aa3333", "nopin": "#2b6ca3"}
TITLES = {"small": "4 KiB pages", "thp": "THP", "hugetlb": "hugetlb"}


# Numbers

def si(value):
    """With three digits, and a letter for the power of 1000."""
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    if not unit and value == int(value):
        return "%d" % value
    return "%.*f%s" % (0 if value >= 99.95 else 1 if value >= 9.995 else 2, value, unit)


def duration(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return "%.3g %s" % (ns / size, unit)
    return "%d ns" % ns


def table(head, rows, left=1):
    """Of Markdown; the first columns are text."""
    yield "| %s |" % " | ".join(head)
    yield "|%s|" % "|".join(["---"] * left + ["--:"] * (len(head) - left))
    for row in rows:
        yield "| %s |" % " | ".join(row)
    yield ""


def command(text):
    return ["`%s`" % text, ""]


# Parts of the page. Each is given the results, and yields lines.

def headline(results):
    yield from ["## What it has to be", ""]
    rows = []
    for bar in suite.bars(results):
        verdict = {True: "yes", False: "**no**", None: "not measured"}[bar.met]
        rows.append([bar.what, "-" if bar.value is None else "%.3f" % bar.value,
                     "%s %.2f%s" % (("≤", "≥")[bar.at_least], bar.bound, bar.slack), verdict,
                     "`%s`" % bar.command])
    yield from table(["", "is", "has to be", "met", "command"], rows)


def of_engine(job):
    return job.engine + (", depth %d" % job.depth if job.engine != "psync" else "")


def grid(jobs, key, cell):
    """Rows by key(job), columns by size."""
    sizes = [s for s in lib.SIZES if any(j.size == s for j in jobs)]
    rows = {}
    for job in jobs:
        rows.setdefault(key(job), {})[job.size] = cell(job)
    return sizes, [[*k, *(row.get(s, "-") for s in sizes)] for k, row in rows.items()]


def icount(results):
    rows = suite.ratios(results["parts"]["icount"])
    jobs = [lib.Job.named(name) for name in rows]
    yield from ["## Instruction counts", "",
                "One processor that takes 1 ns for an instruction, null_blk. IOPS with nopin, "
                "and how many times those with pin that is. Depth 32, if not said otherwise. "
                "The same on any machine, within 0.5 %. Small pages are never adjacent in "
                "memory, as on a machine that has been up for long. Where io_uring leaves the "
                "I/O to threads of its own, the number of switches between these and the "
                "program depends on the depth, and makes more of a difference than pins do: "
                "the median of depths 28, 30, 32, 34 and 36, with the least and the greatest "
                "ratio.", ""]

    def cell(job):
        row = rows[job.name]
        text = "%s **%.2f**" % (si(row["nopin"]), row["ratio"])
        if row["least"] < row["greatest"]:
            text += " (%.2f–%.2f)" % (row["least"], row["greatest"])
        return text

    for memory in lib.MEMORY:
        some = [j for j in jobs if j.memory == memory and j.device == "null_blk" and
                not j.across]
        if not some:
            continue
        sizes, lines = grid(some, lambda j: (j.rw, of_engine(j)), cell)
        yield from ["### " + TITLES[memory], "", *table(["", "engine", *sizes], lines, 2)]
        yield from command("bench/run --only icount" +
                           ("" if memory == "small" else " --job '*-%s*'" % memory))
    if any(j.memory == "thp" for j in jobs):
        yield from ["![](ratio.png)", ""]

    lines = []
    for j in jobs:
        fixed = rows.get(j.name.replace("io_uring", "io_uring-registered"))
        if j.engine == "io_uring" and j.device == "null_blk" and j.memory == "small" and \
                not j.across and fixed:
            row = rows[j.name]
            lines.append([j.size, j.rw, "%d" % j.depth, si(row["pin"]), si(row["nopin"]),
                          si(fixed["pin"]), si(fixed["nopin"]),
                          "%.3f" % (row["nopin"] / fixed["pin"]), "%.3f" % fixed["ratio"]])
    if lines:
        yield from ["### io_uring: plain and registered buffers, 4 KiB pages", "",
                    *table(["", "", "depth", "plain, pin", "plain, nopin",
                            "registered, pin", "registered, nopin",
                            "plain nopin / registered pin",
                            "registered nopin / registered pin"], lines, 2)]
        yield from command("bench/run --only icount --job '*-io_uring' "
                           "--job '*-io_uring-registered'")

    some = [j for j in jobs if j.across]
    if some:
        sizes, lines = grid(some, lambda j: (j.rw, of_engine(j)), cell)
        yield from ["### A buffer across a border of 2 MiB", "",
                    "What earlier I/O has found is kept per 2 MiB. I/O across a border goes "
                    "piece by piece. Of the buffers "
                    "above one in 32 lies like that at most, if it is not larger than 64k.",
                    "", *table(["", "engine", *sizes], lines, 2)]
        yield from command("bench/run --only icount --job '*-across'")

    some = [j for j in jobs if j.device == "polled"]
    if some:
        sizes, lines = grid(some, lambda j: (j.rw, j.engine), cell)
        yield from ["### Polled, 4 KiB pages", "",
                    "By io_uring, IORING_SETUP_IOPOLL.", "",
                    *table(["", "engine", *sizes], lines, 2)]
        yield from command("bench/run --only icount --job '*-polled'")

    some = [j for j in jobs if j.device in lib.FILE_SYSTEMS]
    if some:
        sizes, lines = grid(some, lambda j: (j.device, j.rw, of_engine(j)), cell)
        yield from ["### File systems, on a null_blk that keeps data", "",
                    "Copying the data is part of it, by the only processor. At 1m a run has "
                    "some 400 I/Os, which end up to 32 at a time: within 8 %.", "",
                    *table(["", "", "engine", *sizes], lines, 3)]
        yield from command("bench/run --only icount --job '*-ext4' --job '*-xfs' --job '*-vfat'")


def split(results):
    rows = {(r["job"], r["mode"]): r for r in results["parts"]["split"]}
    yield from ["## Instructions per I/O", "",
                "Of the kernel, by what they are for, and of fio (user). Null_blk, 4 KiB pages, "
                "depth 32 (psync: 1). Counted by a plugin of QEMU, the same from run to run "
                "within 0.2 %. Part of the lookup without pins is inline in "
                "blkdev_direct_IO(): what that takes more than with pins.", ""]
    lines = []
    fields = ("lookup", "dirtying", "release", "rest", "kernel", "user", "all")
    for (job, mode), r in rows.items():
        lines.append([job, mode, *("%.0f" % abs(r[f]) for f in fields)])
    yield from table(["", "", *fields], lines, 2)
    yield from command("bench/run --only split") + command("bench/profile JOB --compare")
    yield from ["![](split.png)", ""]


def spread(row):
    return "**%.2f** (%.2f–%.2f)" % (row["ratio"], row["least"], row["greatest"])


def wall(results):
    rows = suite.ratios(results["parts"]["wall"])
    yield from ["## Wall clock", "",
                "IOPS with nopin relative to pin: median (least–greatest) of runs that took "
                "turns. Other load on the machine shows in these.", ""]
    jobs = []
    for name in rows:
        job, _, cpus = name.rpartition("-")
        jobs.append(lib.Job.named(job))
        jobs[-1].cpus, jobs[-1].key = cpus[:-3], name
    sizes, lines = grid(jobs, lambda j: (j.device, j.cpus, j.rw, j.engine),
                        lambda j: spread(rows[j.key]))
    yield from table(["", "CPUs", "", "engine", *sizes], lines, 4)
    yield from command("bench/run --only wall")


def time_of(ns):
    return "-" if not ns else ns["reason"] if ns["median"] is None else duration(ns["median"])


def quotient(over, under):
    if not over or not under or not over["median"] or not under["median"]:
        return "-"
    ratio = over["median"] / under["median"]
    return "%.2g" % ratio if ratio < 0.1 else "%.2f" % ratio if ratio < 100 else si(ratio)


COSTS = {
    "register": "To register buffers with io_uring",
    "first": "The first I/O of a process, with first_ios 0",
    "first-default": "The first I/O of a process, which is pinned by default",
    "after": "The first and the second I/O of a page after a change of its mapping",
    "sparse": "Three reads into each of 1024 pages that are 1 GiB apart",
    "busy": "To change memory while a read is on its way to it, and when it has ended",
}


def costs(results):
    reports = results["parts"]["costs"]
    yield from ["## Costs beside the I/O", "",
                "Counted in instructions as well: one processor that takes 1 ns for each.", "",
                "![](costs.png)", ""]
    for what, title in COSTS.items():
        rows = suite.costs(reports, what)
        if not rows:
            continue
        names = [k for k, _ in next(iter(rows))]
        yield from ["### " + title, ""]
        yield from table([*names, "pin", "nopin", "nopin / pin"],
                         [[*(size_text(v) if k == "size" else str(v) for k, v in key),
                           time_of(r.get("pin")), time_of(r.get("nopin")),
                           quotient(r.get("nopin"), r.get("pin"))]
                          for key, r in rows.items()], len(names))
        yield from command("bench/run --only costs --job " + what)
    rows = {}
    for r in reports:
        for item in r.get("results", ()) if r["job"] == "memory" else ():
            rows.setdefault((item["pages"], item["stage"]), {})[r["mode"]] = item
    if rows:
        yield from ["### Kernel memory per GiB of buffers, without page tables", "",
                    "All of it used for reads and writes of 4 KiB, then not used for ten minutes, "
                    "unmapped, unmapped and memory scarce, and the process gone. \"sparse\": one "
                    "page of each GiB of 1 TiB used, and all of it unmapped.", ""]
        yield from table(["pages", "", "pin, KiB", "nopin, KiB", "nopin, % of the buffers"],
                         [[*key, *("%.0f" % (r[m]["kernel_per_gib"] / 1024) if m in r else "-"
                                   for m in lib.MODES),
                           "%.3f" % r["nopin"]["percent"] if "nopin" in r else "-"]
                          for key, r in rows.items()], 2)
        yield from command("bench/run --only costs --job memory")
    rows = {tuple(dict(k).values()): r for k, r in suite.costs(reports, "change").items()}
    if rows:
        ops = list(dict.fromkeys(k[0] for k in rows))
        lines = [["%s%s%s" % (state, ", " + place if place != "none" else "",
                              ", %d" % depth if depth else ""),
                  *("%s **%s**" % (time_of(rows[op, state, place, depth].get("nopin")),
                                   quotient(rows[op, state, place, depth].get("nopin"),
                                            rows[op, state, place, depth].get("pin")))
                    for op in ops)]
                 for state, place, depth in dict.fromkeys(k[1:] for k in rows)]
        yield from ["### Changes of other mappings, 64 KiB each", "",
                    "The time with nopin, and how many times that with pin it is: in a process "
                    "without direct I/O (none), with some before (idle), with so many reads in "
                    "flight; and where their buffers are. \"own\": of the buffers themselves.", "",
                    *table(["", *ops], lines)]
        yield from command("bench/run --only costs --job change")
    lines = []
    for r in reports:
        if "process_ns" in r:
            lines.append([r["job"], r["mode"], time_of(r["process_without_io_ns"]),
                          time_of(r["process_ns"]),
                          "%.1f" % (r["bytes_per_process_without_io"]["kernel"] / 1024),
                          "%.1f" % (r["bytes_per_process"]["kernel"] / 1024)])
    if lines:
        yield from ["### Processes that read 8 times and exit", "",
                    "The median time of one from fork to exit, and the kernel memory of one of "
                    "many that wait, without page tables, in KiB; with first_ios 0, and by "
                    "default.", "",
                    *table(["", "", "time without I/O", "with I/O", "memory without I/O",
                            "with I/O"], lines, 2)]
        yield from command("bench/run --only costs --job 'processes*'")


def percentile(r, field, which):
    return [x[field][which] for x in r if x.get(field)]


def storm(results):
    reports = results["parts"]["storm"]
    rows = suite.ratios(reports)
    yield from ["## Storms", "",
                "Steady reads of 4 KiB, 8 in flight, while another thread changes mappings all "
                "the time: outside the GiB of the buffers, in the same GiB, in the same 2 MiB, "
                "idle buffers of the pool, both (mixed), and buffers in flight or not (busy); "
                "and madvise(MADV_FREE) by two and four threads, of which there is always one "
                "under way (free). Or it forks children, one after the other, that exit (fork), "
                "or execute a small program first (exec). "
                "Wall clock, two processors, null_blk: fast, and 1 ms per read (slow). "
                "And on one processor (1cpu), counted in instructions: reads by psync, one at a "
                "time, and by io_uring.", ""]
    lines = []
    for job, row in rows.items():
        runs = {m: [r for r in reports if r["job"] == job and r["mode"] == m]
                for m in lib.MODES}
        changes = suite.ratios(reports, "changes_per_s").get(job)

        def middle(mode, field, which=None):
            values = sorted(r[field][which] if which else r[field] for r in runs[mode]
                            if r.get(field))
            return values[len(values) // 2] if values else None

        cells = [job, si(row["pin"]), si(row["nopin"]), spread(row)]
        for field, which, show in (("changes_per_s", None, si), ("change_ns", "p99", duration),
                                   ("io_ns", "p99", duration)):
            for mode in lib.MODES:
                value = middle(mode, field, which)
                cells.append("-" if value is None else show(value))
        cells.insert(6, spread(changes) if changes else "-")
        lines.append(cells)
    yield from table(["", "IOPS, pin", "IOPS, nopin", "nopin / pin", "changes/s, pin",
                      "changes/s, nopin", "nopin / pin", "change 99 %, pin",
                      "change 99 %, nopin", "read 99 %, pin", "read 99 %, nopin"], lines)
    yield from command("bench/run --only storm")
    yield from ["![](storm.png)", ""]


def scale(results):
    rows = suite.ratios(results["parts"]["scale"])
    yield from ["## Threads", "",
                "Reads of 4 KiB (same-page: writes) by one thread and by two, on two processors; "
                "buffers in one huge page (shared-thp), in adjacent pages of it (shared-words), "
                "one page for all (same-page), mappings of their own (private), and 64 buffers "
                "per thread in as many GiB (ranges). Wall clock: the best 50 ms of each run, "
                "for other load can only make it slower.", ""]
    lines = []
    for job in rows:
        if not job.endswith("-1"):
            continue
        two = rows.get(job[:-1] + "2")
        if two:
            one = rows[job]
            lines.append([job[:-2], si(one["pin"]), si(one["nopin"]), spread(one),
                          si(two["pin"]), si(two["nopin"]), spread(two),
                          "%.2f" % (two["pin"] / one["pin"]),
                          "%.2f" % (two["nopin"] / one["nopin"])])
    yield from table(["", "1, pin", "1, nopin", "nopin / pin", "2, pin", "2, nopin",
                      "nopin / pin", "2 / 1, pin", "2 / 1, nopin"], lines)
    yield from command("bench/run --only scale")
    yield from ["![](scale.png)", ""]


def of_pools(results):
    yield from ["## Pools", "",
                "Random reads into buffers of large pools, counted in instructions; of registered "
                "buffers with io_uring. Cold: the first quarter of the run, in which most buffers "
                "are used for the first time. Warm: the last quarter, of four reads into each "
                "buffer on average.", ""]
    yield from table(["", "cold, pin", "cold, nopin", "nopin / pin", "warm, pin",
                      "warm, nopin", "nopin / pin"],
                     [[row["job"], *(cell for which, i in (("cold", 0), ("warm", -1))
                                     for cell in (si(row["pin"][i]), si(row["nopin"][i]),
                                                  "**%.3f**" % row[which]))]
                      for row in pools.rows(results["parts"]["pools"])])
    yield from command("bench/run --only pools")


def of_cache(results):
    yield from ["## Cache misses", "",
                "Per I/O, in a model of a processor: L1 of 32 KiB, L2 of 1 MiB, and so on, see "
                "bench/cache.c. Pools with one processor. With two processors: each reads into "
                "buffers of its own, next to each other (near) or far apart (far), into the "
                "same ones (same), into any of a pool (pool); or one reads what the other has "
                "submitted (remote). moved: lines that come from the other processor.", "",
                "```", *cache.table(results["parts"]["cache"]), "```", ""]
    yield from command("bench/run --only cache")


def other_kernel(results):
    """The same jobs on the other kernel, if they were measured."""
    path = lib.REPO / "build" / OTHER / "bench/results.json"
    if lib.where.KERNEL != KERNEL or not path.is_file():
        return
    other = json.loads(path.read_text(encoding="utf-8"))
    yield from ["## Linux %s beside %s" % (other["kernel"], results["kernel"]), "",
                "IOPS, counted in instructions. Since %s pins have become faster." % KERNEL, ""]
    both = [suite.ratios(r["parts"]["icount"]) for r in (results, other)]
    lines = [[job, *(cell for rows in both for cell in (
        si(rows[job]["pin"]), si(rows[job]["nopin"]), "**%.3f**" % rows[job]["ratio"]))]
             for job in both[0] if job in both[1] and lib.Job.named(job).memory == "small"
             and lib.Job.named(job).size in ("4k", "64k", "1m")]
    both = [{row["job"]: row for row in pools.rows(r["parts"].get("pools", ()))}
            for r in (results, other)]
    lines += [["%s %s" % (job, which), *(cell for rows in both for cell in (
        si(rows[job]["pin"][i]), si(rows[job]["nopin"][i]), "**%.3f**" % rows[job][which]))]
              for job in both[0] if job in both[1] for which, i in (("cold", 0), ("warm", -1))]
    yield from table(["", *(k + ", " + m for k in (KERNEL, OTHER)
                            for m in ("pin", "nopin", "ratio"))], lines)
    yield from command("KERNEL=%s bench/run --only icount --only pools" % OTHER)


PARTS = {"icount": icount, "pools": of_pools, "cache": of_cache, "split": split, "wall": wall, "costs": costs, "storm": storm,
         "scale": scale}


def page(results, bad):
    m = results["machine"]
    yield from ["# Direct I/O without page pins: benchmarks", "",
                "Linux %s, %s; %s; %d processors, %s. `make bench` makes this page.%s" % (
                    results["kernel"], results["fio"], m["qemu"], m["cpus"], m["cpu"],
                    " **A quick run: less of everything.**" if results["quick"] else ""), ""]
    if bad:
        yield from ["**Failed:**", "", *("- " + line for line in bad), ""]
    yield from headline(results)
    for name, part in PARTS.items():
        if results["parts"].get(name):
            yield from part(results)
        else:
            yield from ["## %s" % name, "", "Not measured: left out of this run.", ""]
    yield from other_kernel(results)


# Plots

HEAD = """
set datafile missing "?"
set border 3 lc rgb "#555555"
set tics nomirror out scale 0.5
set grid ytics lc rgb "#dddddd" lt 1
set encoding utf8
"""


def gnuplot(out, name, width, height, script, blocks):
    """blocks: lists of lines, which the script has as $data0, $data1, ..."""
    data = "".join("$data%d << EOD\n%s\nEOD\n" % (i, "\n".join(b))
                   for i, b in enumerate(blocks))
    for end, terminal in (
            (".svg", 'svg size %d,%d font "sans,13" background "white"' % (width, height)),
            (".png", 'pngcairo size %d,%d font "sans,11"' % (width, height))):
        text = 'set terminal %s\nset output "%s"\n%s%s%s' % (
            terminal, out / (name + end), HEAD, data, script)
        if subprocess.run(["gnuplot"], input=text, text=True, check=False).returncode:
            lib.fail("gnuplot: cannot draw %s" % name)
    return [name + ".svg", name + ".png"]


def quoted(text):
    return text.replace("_", "\\\\_")


def legend(entries, y, width, lines=False):
    """By hand: the key of a panel is no wider than the panel. Centred."""
    # About what a letter takes, of the width of the plot
    sizes = [(len(text) * 7.2 + 48) / width for text, _ in entries]
    x = 0.5 - sum(sizes) / 2
    script = ""
    for i, ((text, color), size) in enumerate(zip(entries, sizes), 10):
        end = x + 18 / width
        if lines:
            script += 'set arrow %d from screen %g,%g to screen %g,%g nohead lw 3 lc rgb "%s"\n' % (
                i, x, y, end, y, color)
        else:
            script += ('set object %d rectangle from screen %g,%g to screen %g,%g '
                       'fc rgb "%s" fs solid noborder\n') % (
                           i, x + 6 / width, y - 0.01, end, y + 0.01, color)
        script += 'set label %d "%s" at screen %g,%g left\n' % (
            i, quoted(text), end + 6 / width, y)
        x += size
    return script


def heading(title, about, y=0.96):
    return ('set label 1 "%s" at screen 0.5,%g center font ",16"\n'
            'set label 2 "%s" at screen 0.5,%g center tc rgb "#444444"\nunset key\n') % (
                quoted(title), y, quoted(about), y - 0.045)


AFTER = "unset label\nunset object\nunset arrow\n"


def plot_ratio(results, out):
    """nopin / pin over block size, a panel per memory and direction."""
    rows = suite.ratios(results["parts"]["icount"])
    jobs = [lib.Job.named(name) for name in rows]
    script = """
set multiplot layout 2,3 margins 0.06,0.985,0.085,0.79 spacing 0.05,0.14
set logscale x 2
set xrange [3500:1200000]
set xtics ("4" 4096, "16" 16384, "64" 65536, "256" 262144, "1024" 1048576)
""" + heading("Direct I/O without page pins: IOPS relative to pinning",
              "null_blk, instruction counts, queue depth 32 (psync: 1); Linux " +
              results["kernel"]) + legend(COLORS.items(), 0.88, 1250, lines=True)
    blocks = []
    panels = [(rw, memory) for rw in lib.DIRECTIONS for memory in lib.MEMORY]
    for i, (rw, memory) in enumerate(panels):
        points = {(j.engine, j.size): rows[j.name]["ratio"] for j in jobs
                  if (j.rw, j.memory, j.device) == (rw, memory, "null_blk")
                  and (j.depth == 32 or j.engine == "psync")}
        lines = []
        for engine, color in COLORS.items():
            if not any(e == engine for e, _ in points):
                continue
            lines.append('$data%d using 1:2 with linespoints lw 2 pt 7 ps 0.7 lc rgb "%s"' %
                         (len(blocks), color))
            blocks.append(["%d %s" % (n, points.get((engine, s), "?"))
                           for s, n in lib.SIZES.items()])
        script += 'set title "%s, %s" font ",12"\n' % (rw, TITLES[memory])
        script += 'set xlabel "%s" offset 0,0.5\n' % ("I/O size in KiB" if i >= 3 else "")
        script += 'set ylabel "%s" offset 1.5\n' % ("" if i % 3 else "nopin / pin")
        top = max([1.5, *points.values()])
        script += "set logscale y\nset yrange [%g:%g]\n" % (
            0.97 * min([0.85, *points.values()]), 1.05 * top)
        script += "set ytics (%s)\n" % ", ".join(
            "%g" % t for t in (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 4, 5, 6, 8, 12)
            if top < 2 or t not in (0.9, 1.1, 1.2))
        script += 'plot %s\n' % ", ".join(
            ['1 with lines lw 1.5 dt 2 lc rgb "#777777"'] + lines)
        script += AFTER
    return gnuplot(out, "ratio", 1250, 760, script + "unset multiplot\n", blocks)


# The class of instructions, its name, and its colour, from the bottom
CLASSES = (("lookup", "page lookup", "#2b6ca3"), ("dirtying", "dirtying", "#c9a24a"),
           ("release", "release", "#aa3333"), ("rest", "rest of the kernel", "#b8b8b8"),
           ("user", "fio", "#e2e2e2"))


def plot_split(results, out):
    """Stacked bars: a panel per size, in it pin and nopin side by side."""
    rows = {(r["job"], r["mode"]): r for r in results["parts"]["split"]}
    sizes = [s for s in lib.SIZES if any(j.startswith(s + "-") for j, _ in rows)]
    script = """
set multiplot layout 1,%d margins 0.06,0.99,0.2,0.77 spacing 0.055,0.1
set style fill solid 1.0 noborder
set boxwidth 0.9
set xtics rotate by 40 right scale 0 noenhanced
""" % len(sizes) + heading(
        "Instructions per I/O: left with pins, right without",
        "null_blk, 4 KiB pages, queue depth 32 (psync: 1); Linux " + results["kernel"]) + \
        legend([(name, color) for _, name, color in CLASSES], 0.87, 1250)
    blocks = []
    for i, size in enumerate(sizes):
        block, tics, x, top = [], [], 0, 0
        for rw in lib.DIRECTIONS:
            for engine in ("psync", "io_uring", "io_uring-registered"):
                pair = [rows.get(("%s-%s-%s" % (size, rw, engine), m)) for m in lib.MODES]
                if None in pair:
                    continue
                tics.append('"%s %s" %g' % (rw[4:], engine.replace("io_uring-", ""), x + 0.5))
                for r in pair:
                    sums, total = [], 0
                    for name, _, _ in CLASSES:
                        total += max(r[name], 0) / 1000
                        sums.append(total)
                    top = max(top, total)
                    block.append(" ".join("%.4f" % s for s in [x, *sums]))
                    x += 1
                x += 0.6
            x += 0.6
        blocks.append(block)
        script += 'set title "%s" font ",12"\nset yrange [0:%g]\nset xrange [-0.8:%g]\n' % (
            size.replace("k", " KiB").replace("m", " MiB"), top * 1.08, x - 1.4)
        script += "set xtics (%s)\n" % ", ".join(tics)
        script += 'set ylabel "%s" offset 1\n' % ("" if i else "thousand instructions")
        # Each covers what is below it of the one before
        script += "plot %s\n" % ", ".join(
            '$data%d using 1:%d with boxes lc rgb "%s"' % (i, n + 2, color)
            for n, (_, _, color) in reversed(list(enumerate(CLASSES))))
        script += AFTER
    return gnuplot(out, "split", 1250, 620, script + "unset multiplot\n", blocks)


def bars(groups, series, label, top=None):
    """Bars side by side: groups of (name, [(value, least, greatest)]), series of colours.
    Returns the script of a panel, and its data."""
    n, width = len(series), 0.8 / len(series)
    blocks = []
    for i in range(n):
        blocks.append(["%g %s" % (x + (i - (n - 1) / 2) * width,
                                  " ".join("?" if v is None else "%g" % v for v in values[i]))
                       for x, (_, values) in enumerate(groups)])
    script = "set style fill solid 1.0 noborder\nset boxwidth %g\n" % (width * 0.92)
    script += "set xrange [-0.6:%g]\nset yrange [0:%s]\n" % (
        len(groups) - 0.4, "*" if top is None else "%g" % top)
    script += "set xtics (%s) scale 0 noenhanced rotate by 30 right\n" % ", ".join(
        '"%s" %d' % (name, x) for x, (name, _) in enumerate(groups))
    script += 'set ylabel "%s" offset 1\n' % label
    return script, blocks


def plot_bars(first, series):
    """The plot command, with whiskers from the least to the greatest."""
    return "plot %s, %s\n" % (
        ", ".join('$data%d using 1:2 with boxes lc rgb "%s"' % (first + i, color)
                  for i, (_, color) in enumerate(series)),
        ", ".join('$data%d using 1:3:(0):($4-$3) with vectors nohead lw 1.2 lc rgb "#222222"' %
                  (first + i) for i in range(len(series))))


def three(values):
    """The median, the least and the greatest."""
    values = sorted(values)
    return (values[len(values) // 2], values[0], values[-1]) if values else (None, None, None)


def plot_storm(results, out):
    reports = results["parts"]["storm"]
    jobs = list(dict.fromkeys(r["job"] for r in reports))
    disks = {disk: about for disk, about in (("fast", "null_blk that does nothing"),
                                             ("slow", "1 ms per read"))
             if any(job.endswith("-" + disk) for job in jobs)}
    if not disks:
        return []
    height = 100 + 330 * len(disks)
    script = "set multiplot layout %d,2 margins 0.07,0.985,%g,%g spacing 0.08,0.2\n" % (
        len(disks), 75 / height, 1 - 145 / height) + heading(
        "Reads of 4 KiB while another thread changes mappings all the time",
        "null_blk, wall clock, two processors, median, least and greatest; Linux " +
        results["kernel"], 1 - 25 / height) + legend(MODE_COLORS.items(), 1 - 90 / height, 1250)
    blocks = []
    for disk, about in disks.items():
        for title, get, label in (
                ("IOPS", lambda r: r["iops"] / 1000, "thousand per second"),
                ("99 % of changes take less than",
                 lambda r: r["change_ns"]["p99"] / 1e6 if r.get("change_ns") else None, "ms")):
            groups = []
            for job in jobs:
                if job.endswith("-" + disk):
                    values = [three([v for v in (get(r) for r in reports if r["job"] == job
                                                 and r["mode"] == mode and "iops" in r)
                                     if v is not None]) for mode in lib.MODES]
                    if values[0][0] is not None:
                        groups.append((job[:-len(disk) - 1], values))
            if not groups:
                continue
            panel, data = bars(groups, MODE_COLORS, label)
            script += 'set title "%s, %s" font ",12"\n' % (title, quoted(about)) + panel
            if label == "ms":
                script += "set logscale y\nset yrange [0.01:*]\n"
            script += plot_bars(len(blocks), list(MODE_COLORS.items())) + AFTER
            script += "unset logscale\n"
            blocks += data
    return gnuplot(out, "storm", 1250, height, script + "unset multiplot\n", blocks)


def plot_scale(results, out):
    reports = results["parts"]["scale"]
    series = [("pin, 1 thread", "#e3b0b0"), ("nopin, 1 thread", "#a9c6e0"),
              ("pin, 2 threads", MODE_COLORS["pin"]),
              ("nopin, 2 threads", MODE_COLORS["nopin"])]
    engines = [e for e in ("psync", "io_uring")
               if any(r["job"].endswith("-%s-1" % e) for r in reports)]
    script = "set multiplot layout 1,%d margins 0.07,0.985,0.2,0.77 spacing 0.07,0.1\n" % max(
        1, len(engines)) + heading(
        "Direct I/O of 4 KiB by one thread and by two",
        "null_blk, wall clock, two processors, median, least and greatest; Linux " +
        results["kernel"]) + legend(series, 0.87, 1250)
    blocks = []
    for engine in engines:
        groups = []
        names = [r["job"][:-2] for r in reports if r["job"].endswith("-%s-1" % engine)]
        for name in dict.fromkeys(names):
            groups.append((name[:-len(engine) - 1], [
                three([r["iops"] / 1000 for r in reports if "iops" in r and
                       r["job"] == "%s-%d" % (name, threads) and r["mode"] == mode])
                for threads in (1, 2) for mode in lib.MODES]))
        if groups:
            panel, data = bars(groups, series, "thousand IOPS")
            script += 'set title "%s" font ",12"\n' % quoted(engine) + panel
            script += plot_bars(len(blocks), series) + AFTER
            blocks += data
    return gnuplot(out, "scale", 1250, 560, script + "unset multiplot\n", blocks)


def size_text(n):
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n >= size:
            return "%g %s" % (n / size, unit)
    return "%d" % n


def plot_costs(results, out):
    """Registering over size, the first I/O over mappings, and changes of mappings."""
    reports = results["parts"]["costs"]
    script = "set multiplot layout 1,3 margins 0.07,0.985,0.2,0.77 spacing 0.075,0.1\n" + \
        heading("What direct I/O costs beside the I/O",
                "counted in instructions, 1 ns each; 32 reads in flight during changes; "
                "Linux " + results["kernel"]) + \
        legend(MODE_COLORS.items(), 0.86, 1350)
    blocks = []
    rows = {tuple(dict(k).values()): v for k, v in suite.costs(reports, "register").items()}
    sizes = sorted({size for op, size in rows if op == "register"})
    first = {tuple(dict(k).values()): v for k, v in suite.costs(reports, "first").items()}
    mappings = sorted({k[0] for k in first})
    for title, label, xs, tics, get in (
            ("Registering a buffer with io_uring", "size", sizes,
             ['"%s" %d' % (size_text(n), n) for n in sizes],
             lambda x, mode: rows["register", x].get(mode)),
            ("The first read of a process", "mappings of the process, adjacent", mappings,
             ['"%d" %d' % (n, n) for n in mappings],
             lambda x, mode: first.get((x, "adjacent", "first"), {}).get(mode))):
        if not xs:
            continue
        lines = []
        for mode, color in MODE_COLORS.items():
            lines.append('$data%d using 1:2 with linespoints lw 2 pt 7 ps 0.8 lc rgb "%s"' % (
                len(blocks), color))
            points = [(x, (get(x, mode) or {}).get("median")) for x in xs]
            blocks.append(["%d %s" % (x, "?" if y is None else y / 1000) for x, y in points])
        script += 'set title "%s" font ",12"\nset xlabel "%s"\nset ylabel "us" offset 1\n' % (
            quoted(title), label)
        script += "set logscale xy\nset yrange [*:*]\n"
        script += "set xrange [%g:%g]\n" % (xs[0] / 2, xs[-1] * 2)
        script += "set xtics (%s) rotate by 30 right\nplot %s\n" % (
            ", ".join(tics), ", ".join(lines))
        script += AFTER + "unset logscale\nunset xlabel\n"
    change = {tuple(dict(k).values()): v for k, v in suite.costs(reports, "change").items()}
    if change:
        series = list(MODE_COLORS.items())
        depth = max(k[3] for k in change)
        groups = []
        for op in dict.fromkeys(k[0] for k in change):
            none = change[op, "none", "none", 0].get("pin", {}).get("median")
            during = change.get((op, "flight", "same-gib", depth), {})
            values = [[ns[f] / none for f in ("median", "min", "max")]
                      if none and ns and ns["median"] else [None] * 3
                      for ns in (during.get(m) for m in lib.MODES)]
            groups.append((op, values))
        panel, data = bars(groups, series, "time, 1 with no direct I/O", 1.6)
        script += 'set title "Changes of other mappings in that GiB" font ",12"\n' + panel
        script += plot_bars(len(blocks), series) + AFTER
        blocks += data
    return gnuplot(out, "costs", 1350, 520, script + "unset multiplot\n", blocks)


PLOTS = {"icount": plot_ratio, "split": plot_split, "costs": plot_costs,
         "storm": plot_storm, "scale": plot_scale}


def write(results, bad, out):
    """Returns the names of the files."""
    (out / "report.md").write_text("\n".join(page(results, bad)), encoding="utf-8")
    names = ["results.json", "report.md"]
    for part, plot in PLOTS.items():
        if results["parts"].get(part):
            names += plot(results, out)
    return names
