#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Break each rule of Documentation/mm/nopin.rst in turn: does a test notice?

    mutants.py [NAME...]        build a kernel with each mutant, run its tests
    mutants.py --applies        only see whether each applies, and names tests

A mutant is a patch mutants/NAME.patch, or mutants/VERSION/NAME.patch where that version
of the kernel needs another one. Its header says which rule it breaks, and
which tests have to notice: those of KUnit are SUITE.TEST, those of run.sh
PROGRAM:TEST. Such a test is run without a mutant first, and must pass then: a test that
always fails would notice anything. With a mutant it must fail, or the kernel must
report a problem or hang.

Prints TAP. The mutants are built in build/mutant, one after the other, a minute or two
each: it begins as a copy of build/kasan. The corrupted kernels run in virtual machines
only."""

import functools
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
REPO = os.path.realpath(os.path.join(HERE, "../../../.."))
VM = os.path.join(REPO, "tools/testing/vm")
sys.path.insert(0, VM)
from where import BUILD, KERNEL  # noqa: E402
PATCHES = os.path.join(HERE, "mutants")
LINUX = os.path.join(BUILD, "linux")
TREE = os.path.join(BUILD, "linux-mutant")
FLAVOR = "kasan"
MUTANT = os.path.join(BUILD, "mutant")
IMAGE = os.path.join(MUTANT, "arch/x86/boot/bzImage")
LOGS = os.path.join(BUILD, "mutants")
# A guest that takes longer hangs
SECONDS = 300


class Mutant:
    def __init__(self, name):
        self.name = name
        of_all, own = (os.path.join(PATCHES, d, name + ".patch") for d in ("", KERNEL))
        self.path = own if os.path.exists(own) else of_all
        with open(self.path, encoding="utf-8") as f:
            text = f.read()
        head = text.partition("\n--- ")[0]
        self.rule = "".join(re.findall(r"^Rule: (.*)$", head, re.M))
        self.tests = re.findall(r"^Noticed-by: (.*)$", head, re.M)
        self.files = re.findall(r"^\+\+\+ b/(\S+)$", text, re.M)

    def apply(self, top):
        return subprocess.run(["patch", "-d", top, "-p1", "-F0", "-s", "-i", self.path,
                               "--no-backup-if-mismatch"], check=False).returncode == 0


class Tap:
    def __init__(self):
        self.number = 0
        self.failed = False
        print("TAP version 13")

    def result(self, passed, what, log=None):
        self.number += 1
        self.failed |= not passed
        print(f"{'ok' if passed else 'not ok'} {self.number} {what}")
        if not passed and log and os.path.exists(log):
            with open(log, encoding="utf-8", errors="replace") as f:
                for line in f.readlines()[-5:]:
                    print("#", line.rstrip())
        sys.stdout.flush()

    def end(self):
        print(f"1..{self.number}")
        return self.failed


def copy(path):
    """As in build/linux, and newer than what was compiled from anything else."""
    to = os.path.join(TREE, path)
    if os.path.lexists(to):
        os.unlink(to)
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copyfile(os.path.join(LINUX, path), to)


def kernel():
    """Build it where the compiler finds the tree at the usual place, so that the objects
    of build/kasan are as good as new."""
    script = f"mount --bind '{TREE}' '{LINUX}' && exec '{VM}/kernel' {FLAVOR}"
    return subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", script],
                          env=dict(os.environ, NOPIN_TREE=os.path.basename(LINUX),
                                   NOPIN_OUT="mutant"),
                          stdout=subprocess.DEVNULL, check=False).returncode == 0


def boot(log, mutant, options, command):
    """Of a command in a guest: did it succeed, and what does it print?"""
    command = command(" ".join(["--timeout", str(SECONDS)] +
                               (["--kernel", IMAGE] if mutant else []) + options))
    with open(log, "wb") as f:
        done = subprocess.run(command, stdout=f, stderr=subprocess.STDOUT, check=False)
    with open(log, encoding="utf-8", errors="replace") as f:
        return done.returncode == 0, f.read()


def kunit(log, mutant, which):
    return boot(log, mutant, ["--mem", "6G"], lambda options: [
        os.path.join(VM, "run"), "--flavor", FLAVOR, *options.split(),
        "--append", "hugepagesz=1G hugepages=1",
        "--append", f"kunit.enable=1 kunit.filter_glob={which}", "--",
        "sh", "-c", "cat /sys/kernel/debug/kunit/nopin*/results"])


@functools.cache
def kunit_sound():
    """All of the suites at once, without a mutant"""
    return kunit(os.path.join(LOGS, "none-kunit.log"), False, "nopin*")


def run(test, log, mutant):
    """Does the test pass?"""
    program, dot, name = test.partition(".")
    if dot:
        good, text = kunit(log, True, test) if mutant else kunit_sound()
        wanted = rf"ok \d+ {name}\b"
    else:
        program, _, name = test.partition(":")
        good, text = boot(log, mutant, [], lambda options: [
            "env", "VM_RUN=" + options, os.path.join(HERE, "vm.sh"), "nopin", FLAVOR,
            program, "--", "-t", name])
        wanted = "ok .*" + re.escape(name)
    return good and not re.search(r"^\s*not " + wanted, text, re.M) and \
        bool(re.search(r"^\s*" + wanted, text, re.M))


def known(test):
    """Is there such a test?"""
    suite, dot, name = test.partition(".")
    if dot:
        paths = [os.path.join(REPO, "mm/nopin/tests", f)
                 for f in os.listdir(os.path.join(REPO, "mm/nopin/tests"))]
        wanted = rf"\b{name}\b"
    else:
        program, _, name = test.partition(":")
        paths = [os.path.join(HERE, program + ".c")]
        wanted = rf"\b{name.split('_')[0]}"
    for path in paths:
        with open(path, encoding="utf-8") as f:
            if re.search(wanted, f.read()):
                return True
    return False


def ruled():
    """The mutants that the rules in the documentation name, each once"""
    with open(os.path.join(REPO, "Documentation/mm/nopin.rst"), encoding="utf-8") as f:
        lists = re.findall(r"\*Mutants?\*(.*?)\. *\s*\*Tests?\*", f.read(), re.S)
    return sorted(name.strip() for names in lists
                  for name in re.sub(r"\([^)]*\)", "", names).split(","))


def applies(mutants, tap):
    names, rules = [mutant.name for mutant in mutants], ruled()
    tap.result(names == rules, "the rules name each mutant")
    if names != rules:
        print("# not the same:", *sorted(set(names) ^ set(rules)))
    top = os.path.join(BUILD, "mutants/tree")
    for mutant in mutants:
        shutil.rmtree(top, ignore_errors=True)
        for path in mutant.files:
            os.makedirs(os.path.dirname(os.path.join(top, path)), exist_ok=True)
            shutil.copyfile(os.path.join(LINUX, path), os.path.join(top, path))
        tap.result(bool(mutant.files and mutant.rule) and mutant.apply(top),
                   f"{mutant.name}: applies")
        tap.result(bool(mutant.tests) and all(map(known, mutant.tests)),
                   f"{mutant.name}: names tests that exist")


def notices(mutants, tap):
    sound = {}
    for top in (TREE, MUTANT):
        shutil.rmtree(top, ignore_errors=True)
    subprocess.run(["cp", "-al", LINUX, TREE], check=True)
    subprocess.run(["cp", "-a", os.path.join(BUILD, FLAVOR), MUTANT], check=True)
    for mutant in mutants:
        for test in mutant.tests:
            if test not in sound:
                log = os.path.join(LOGS, f"none-{test}.log")
                sound[test] = run(test, log, False)
                tap.result(sound[test], f"{test} passes without a mutant", log)
        for path in mutant.files:
            copy(path)
        if not mutant.apply(TREE) or not kernel():
            tap.result(False, f"{mutant.name}: builds")
        else:
            for test in filter(sound.get, mutant.tests):
                log = os.path.join(LOGS, f"{mutant.name}-{test}.log")
                tap.result(not run(test, log, True),
                           f"{mutant.rule} broken ({mutant.name}): {test} notices", log)
        for path in mutant.files:
            copy(path)


def main():
    names = sys.argv[1:]
    if names and names[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    only_applies = names == ["--applies"]
    every = sorted(f[:-6] for f in os.listdir(PATCHES) if f.endswith(".patch"))
    if only_applies or not names:
        names = every
    for name in names:
        if name not in every:
            sys.exit(f"mutants.py: no mutant '{name}', there are: {' '.join(every)}")
    if subprocess.run([os.path.join(VM, "tree")], stdout=subprocess.DEVNULL,
                      check=False).returncode:
        return 1
    os.makedirs(LOGS, exist_ok=True)
    tap = Tap()
    (applies if only_applies else notices)([Mutant(name) for name in names], tap)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
