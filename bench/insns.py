# SPDX-License-Identifier: GPL-2.0
#
# Instructions per I/O, by function and by what they are for: insns.c counts them.

import bisect
import collections
import os
import pathlib
import re
import subprocess
import tempfile

import lib

PLUGIN = lib.REPO / "build/bench/insns.so"
# fio does this before its I/O and after, and nobody else does
MARK = "__x64_sys_getrusage"

# How many I/Os the two runs differ by
IOS = {"4k": 30000, "16k": 20000, "64k": 10000, "256k": 5000, "1m": 2000}

# What functions are for, by their names without suffixes of the compiler: the first
# class that matches. What is left, "rest", is the way there and back.
CLASSES = {
    # from an address of the user to pages in a bio
    "lookup": """
        iov_iter_extract_pages pin_user_pages_fast is_valid_gup_args gup_fast_.* try_get_folio
        try_grab_folio.* __pte_offset_map bio_iov_iter_get_pages __bio_add_page
        bvec_try_merge_page bio_nopin_(get|known|try|enter|alloc|add|copy|prepare).*
        memcpy_orig nopin_(enter|open|walk|find|pmd|pud|mm|present|no_entry).*""",
    # that the device has written to the pages
    "dirtying": """
        bio_set_pages_dirty bio_check_pages_dirty folio_mark_dirty folio_mapping
        noop_dirty_folio folio_unlock set_page_dirty.*""",
    # that the I/O is done with the pages
    "release": """
        __bio_release_pages unpin_user_.* gup_put_folio bio_nopin_.* nopin_exit.* nopin_.*""",
    "rest": ".*",
}
PATTERNS = {name: re.compile("|".join(words.split())) for name, words in CLASSES.items()}
# Called once for a page that is pinned, and once when that ends
HALVES = {"mod_node_page_state": ("lookup", "release")}


def classes_of(function, device="null_blk"):
    """One or two."""
    if function == "memcpy_orig" and device in lib.FILE_SYSTEMS:
        return ("rest",)        # a disk that keeps data copies it
    return HALVES.get(function) or \
        (next(name for name, p in PATTERNS.items() if p.fullmatch(function)),)


def symbols(vmlinux):
    """The functions of a kernel: sorted addresses, and a name for each."""
    out = subprocess.run(["nm", str(vmlinux)], check=False, text=True,
                         stdout=subprocess.PIPE).stdout
    names = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tTwW":
            names.setdefault(int(words[0], 16), []).append(words[2])
    found = sorted(names)
    if not found:
        lib.fail("%s: no symbols" % vmlinux)
    return found, [re.sub(r"\.(cold|part|isra|constprop).*", "", min(names[a], key=len))
                   for a in found]


def sections(path):
    """What the plugin has counted between two marks: address (or "user"), count."""
    section = {}
    with open(path, encoding="ascii") as f:
        for line in f:
            if line == "end\n":
                yield section
                section = {}
            else:
                addr, count = line.split()
                section[addr if addr == "user" else int(addr, 16)] = int(count)


def difference(less, more, ios, addrs, names, device):
    """The profile of an I/O."""
    functions = collections.defaultdict(lambda: [0, 0])
    for addr in {*less, *more} - {"user"}:
        count = more.get(addr, 0) - less.get(addr, 0)
        i = bisect.bisect(addrs, addr) - 1
        function = functions[names[i] if i >= 0 else "?"]
        function[0] += count / ios
        if i >= 0 and addrs[i] == addr:
            function[1] += count / ios
    user = (more["user"] - less["user"]) / ios
    kernel = sum(n for n, _ in functions.values())
    classes = dict.fromkeys(CLASSES, 0)
    for name, (n, _) in functions.items():
        kinds = classes_of(name, device)
        for kind in kinds:
            classes[kind] += n / len(kinds)
    return {"all": user + kernel, "user": user, "kernel": kernel, "classes": classes,
            "functions": {name: tuple(f) for name, f in functions.items() if any(f)}}


def profile(jobs, modes, image, vmlinux):
    """{(job's name, mode): profile}, of jobs of one device; and the kernel's version."""
    lib.compile_c("insns.c", PLUGIN, "-shared", "-fPIC")
    addrs, names = symbols(vmlinux)
    if MARK not in names:
        lib.fail("%s: no %s" % (vmlinux, MARK))
    device = jobs[0].device
    runs = []
    for job in jobs:
        for mode in modes:
            for times in (1, 2):
                runs.append(job.run(mode, ios=times * IOS[job.size]))
    fd, out = tempfile.mkstemp(prefix="insns.", dir=PLUGIN.parent)
    os.close(fd)
    try:
        plugin = "%s,mark=%#x,out=%s" % (PLUGIN, addrs[names.index(MARK)], out)
        reports = lib.guest(
            image, PLUGIN.with_name("profile.console"),
            [*lib.counting_options(device), "--plugin", plugin],
            lib.plan(device, "/dev/nullb0", runs),
            lib.Progress("split: counting instructions", len(runs)))
        # Every other is what happens in between, and the first are of the warm-up
        counts = list(sections(out))[1::2][len(lib.WARM):]
    finally:
        pathlib.Path(out).unlink()
    head = reports.pop(0)
    # They have an ID of the build
    if bytes.fromhex(head["notes"]) not in vmlinux.read_bytes():
        lib.fail("%s is not of the kernel %s" % (vmlinux, image))
    for job, report in zip([j for j in jobs for _ in modes for _ in (1, 2)], reports):
        bad = [report["error"]] if "error" in report else list(job.check(report))
        if bad:
            lib.fail("%s, %s: %s" % (report["job"], report["mode"], bad[0]))
    if len(counts) != len(reports):
        lib.fail("%d runs, but instructions of %d: does fio still do %s twice?" % (
            len(reports), len(counts), MARK))
    result = {}
    for i in range(0, len(reports), 2):
        report = reports[i]
        result[report["job"], report["mode"]] = difference(
            counts[i], counts[i + 1], reports[i + 1]["ios"] - report["ios"], addrs, names,
            device)
    return result, head["kernel"]
