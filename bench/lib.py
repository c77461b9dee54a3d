# SPDX-License-Identifier: GPL-2.0
#
# What the programs of this directory share: kernels under QEMU that carry out the
# plan of a benchmark, and the jobs of jobs/suite.fio.

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

REPO = pathlib.Path(__file__).resolve().parent.parent
RESULTS = REPO / "bench/results"
RUN = REPO / "tools/testing/vm/run"
KERNEL = REPO / "tools/testing/vm/kernel"
sys.path.append(str(RUN.parent))
import where    # pylint: disable=wrong-import-position
BUILD = pathlib.Path(where.BUILD)
IMAGE = BUILD / "plain/arch/x86/boot/bzImage"
VMLINUX = BUILD / "plain/vmlinux"

MODES = ("pin", "nopin")


def fail(text):
    sys.exit("%s: %s" % (pathlib.Path(sys.argv[0]).name, text))


class Progress:
    """Something to read every few seconds."""

    def __init__(self, what, total):
        self.total, self.count = total, 0
        self.lock = threading.Lock()
        self.start = self.last = time.monotonic()
        print("%s ..." % what, flush=True)

    def step(self, what):
        with self.lock:
            self.count += 1
            now = time.monotonic()
            if now - self.last < 5 and self.count < self.total:
                return
            self.last = now
            print("  %3.0f s: %2d of %d runs done, %s" %
                  (now - self.start, self.count, self.total, what), flush=True)


def build_kernel():
    if subprocess.run([str(KERNEL), "plain"], check=False).returncode:
        fail("no kernel")


def compile_c(source, out, *flags):
    out.parent.mkdir(parents=True, exist_ok=True)
    argv = ["gcc", "-O2", "-Wall", "-o", str(out), str(REPO / "bench" / source), *flags]
    if subprocess.run(argv, check=False).returncode:
        fail("%s: cannot be compiled; tools/testing/vm/deps installs what it needs" % source)


def guest(image, console, options, what, progress, timeout=900):
    """Boot a kernel and have bench/guest carry out a plan. Returns its reports."""
    console.parent.mkdir(parents=True, exist_ok=True)
    # The guest can read what is here. An argument may be too small for it.
    path = console.with_suffix(".plan")
    path.write_text(json.dumps(what), encoding="utf-8")
    argv = [str(RUN), "--kernel", str(image.resolve()), "--timeout", str(timeout),
            "--console", str(console), *options,
            "--", "/usr/bin/python3", "bench/guest", str(path)]
    reports, other = [], []
    with subprocess.Popen(argv, cwd=REPO, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          errors="replace") as vm:
        for line in vm.stdout:
            if not line.startswith("@demo "):
                other.append(line)
                continue
            report = json.loads(line[len("@demo "):])
            reports.append(report)
            if "job" in report:
                progress.step("last %(job)s, %(mode)s" % report)
    if other:
        sys.stderr.write("".join(other))
    if not vm.returncode and len(reports) != len(what["runs"]) + 1:
        fail("%s: %d of %d runs reported" % (
            console.stem, len(reports) - 1, len(what["runs"])))
    if vm.returncode:
        fail("%s: tools/testing/vm/run ends with %d" % (console.stem, vm.returncode))
    return reports


def pin_problems(report):
    """Pins that are taken and must not be, or the other way round."""
    where = "%(job)s, %(mode)s: " % report
    if "error" in report:
        yield where + report["error"]
        return
    taken, released = report["nr_foll_pin_acquired"], report["nr_foll_pin_released"]
    if taken != released:
        yield where + "%d pins taken, %d released" % (taken, released)
    # While its pages move, some I/O may have to be pinned
    if report["mode"] == "nopin" and taken and not report.get("in_flight"):
        yield where + "%d pins taken, %d bios fell back" % (taken, report["nopin_fallback"])
    if report["mode"] == "nopin" and not report["nopin_bio"]:
        yield where + "no bio did without pins"
    if report["mode"] == "pin" and not taken:
        yield where + "no pins taken"


# The jobs of jobs/suite.fio. A name has the block size, the direction, the engine,
# and what differs from I/O with depth 32 (psync: 1) to small pages and null_blk:
# 4k-randread-psync, 1m-randwrite-io_uring-registered-thp-qd1, 64k-randread-libaio-xfs,
# 64k-randread-io_uring-qd1-across: the buffer lies across a multiple of 2 MiB

SIZES = {"4k": 4 << 10, "16k": 16 << 10, "64k": 64 << 10, "256k": 256 << 10, "1m": 1 << 20}
DIRECTIONS = ("randread", "randwrite")
ENGINES = ("psync", "libaio", "io_uring", "io_uring-registered")
MEMORY = ("small", "thp", "hugetlb")
# Polled is null_blk as well, and io_uring polls it; the others are file systems
DEVICES = ("null_blk", "polled", "ext4", "xfs", "vfat")
FILE_SYSTEMS = DEVICES[2:]
DEPTHS = (1, 32)
HUGE = 2 << 20

# Where fio leaves files
CWD = "/tmp/"

THP = "/sys/kernel/mm/transparent_hugepage/enabled"
NULL_BLK = "null_blk.nr_devices=1 null_blk.gb=4 null_blk.queue_mode=2"
# Emulated, "rep movsb" goes byte by byte
APPEND = "clearcpuid=erms,fsrm "


class Job:
    def __init__(self, size, rw, engine, memory="small", depth=None, device="null_blk",
                 across=False):
        self.size, self.rw, self.engine = size, rw, engine
        self.memory, self.device, self.across = memory, device, across
        self.depth = depth or (1 if engine == "psync" else 32)

    @classmethod
    def named(cls, name):
        """A job by its name; ValueError if there is no such job."""
        words = name.split("-")
        if "registered" in words[3:4]:
            words[2:4] = ["io_uring-registered"]
        options = {}
        if words[-1] == "across":
            words.pop()
            options["across"] = True
        for word in words[3:]:
            for key, values in (("memory", MEMORY), ("device", DEVICES),
                                ("depth", ["qd%d" % d for d in DEPTHS])):
                if word in values and key not in options:
                    options[key] = int(word[2:]) if key == "depth" else word
                    break
            else:
                raise ValueError("%s: what is '%s'?" % (name, word))
        if len(words) < 3 or words[0] not in SIZES or words[1] not in DIRECTIONS or \
                words[2] not in ENGINES or words[2] == "psync" and "depth" in options or \
                options.get("device") == "polled" and words[2] not in ENGINES[2:]:
            raise ValueError("%s: a job is called like 4k-randread-io_uring-registered" % name)
        return cls(*words[:3], **options)

    @property
    def name(self):
        words = [self.size, self.rw, self.engine]
        words += [w for w in (self.memory, self.device) if w not in ("small", "null_blk")]
        if self.depth == 1 and self.engine != "psync":
            words.append("qd1")
        if self.across:
            words.append("across")
        return "-".join(words)

    @property
    def section(self):
        """Of jobs/suite.fio."""
        return self.engine + ("-polled" if self.device == "polled" else "")

    @property
    def depths(self):
        """With which it is counted. I/O that has to be divided, or to a file system that
        may block, is left to threads of io_uring. How often these and the program take
        turns on one processor is a matter of the depth, and of a few instructions more
        or less, while the same job takes the same turns each time."""
        if "io_uring" in self.engine and self.depth > 1 and \
                (SIZES[self.size] >= SIZES["256k"] or self.device == "vfat"):
            return [self.depth + i for i in (-4, -2, 0, 2, 4)]
        return [self.depth]

    def argv(self, ios=0, runtime="400ms", ramp="100ms", depth=None):
        """The command in the guest: for so many I/Os, or if 0 for so long."""
        path, size = "/dev/nullb0", "4g"
        if self.device in FILE_SYSTEMS:
            path, size = "/mnt/file", "64m"
        memory = {"small": "malloc", "thp": "mmap", "hugetlb": "shmhuge"}[self.memory]
        # fio has as much memory before the buffers and behind them: all around them
        # is a huge page then, wherever the kernel puts the mapping
        offset = HUGE if self.memory == "thp" else 0
        # The end of the last mapping is a little above a multiple of 2 MiB. Buffers
        # for a single I/O would be across it each time, where others rarely are
        if self.memory == "small" and not self.across:
            offset = HUGE // 4
        values = {"FILE": path, "SIZE": size, "BS": self.size, "RW": self.rw,
                  "DEPTH": depth or self.depth, "MEM": memory, "OFFSET": offset,
                  "TIMED": 0 if ios else 1, "RUNTIME": 0 if ios else runtime, "IOS": ios,
                  "RAMP": 0 if ios else ramp}
        return ["env", *("%s=%s" % v for v in values.items()),
                "fio", "--output-format=json", "--section=" + self.section,
                str(REPO / "bench/jobs/suite.fio")]

    def run(self, mode, **options):
        """For the plan of a guest."""
        return {"job": self.name, "mode": mode, "argv": self.argv(**options),
                "depth": options.get("depth") or self.depth,
                "write": {THP: "always" if self.memory == "thp" else "never"},
                "smaps": CWD + self.section + ".postrun.txt"}

    def check(self, report):
        """Whether the buffers were of the pages that they should be. Returns problems."""
        thp, hugetlb = report["anon_huge_kib"] << 10, report["hugetlb_kib"] << 10
        size = SIZES[self.size] * report["depth"]
        if self.memory == "thp" and thp < -(-size // HUGE) * HUGE or \
                self.memory == "hugetlb" and hugetlb < size or \
                self.memory == "small" and (thp or hugetlb):
            yield "%s, %s: buffers of %d KiB have %d KiB of THP and %d KiB of hugetlb" % (
                self.name, report["mode"], size >> 10, thp >> 10, hugetlb >> 10)


# What pages in a program: waiting for that would count as its time
WARM = [Job("4k", "randread", engine).argv(ios=100) for engine in ENGINES]
SETUP = [["sh", "-c", "echo never >" + THP],
         # It would look through the memory now and then
         ["sh", "-c", "echo 4294967295 >" + os.path.dirname(THP) +
          "/khugepaged/scan_sleep_millisecs"],
         # fio takes a power of two: 64 MiB and some for a depth above 32
         ["sh", "-c", "echo 40 >/proc/sys/vm/nr_hugepages"]]
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        "xfs": ["mkfs.xfs", "-q", "-f"],
        "vfat": ["mkfs.fat"]}


def setup(device, disk):
    """What the plan of a guest has to set up for jobs of a device."""
    if device not in FILE_SYSTEMS:
        return SETUP
    return [*SETUP, [*MKFS[device], disk], ["mount", disk, "/mnt"],
            # Reading what was never written does not reach the disk
            ["dd", "if=/dev/zero", "of=/mnt/file", "bs=1M", "count=64", "oflag=direct",
             "status=none"]]


def plan(device, disk, runs):
    """For a guest, to run jobs of a device."""
    return {"setup": setup(device, disk), "warm": WARM, "cwd": CWD, "fragment": 256,
            "runs": runs}


def counting_options(device):
    """Of a guest in which jobs of a device take as long as they have instructions."""
    append, mem = APPEND + NULL_BLK, "1G"
    if device == "polled":
        append += " null_blk.poll_queues=1"
    elif device in FILE_SYSTEMS:
        # It keeps the data, which takes time too, and always the same
        append, mem = append + " null_blk.memory_backed=1", "2G"
    return ["--icount", "--mem", mem, "--append", append]
