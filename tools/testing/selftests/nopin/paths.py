#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""What paths.sh counted: is it what paths.claims says, and as a table.

    paths.py [--rst] LOG...            a table in Markdown, or in reStructuredText
    paths.py --tap CLAIMS LOG|-        TAP, a result for each path and kind of I/O

Standard input is passed on with --tap, as comments: the output is a log as well."""

import argparse
import fnmatch
import re
import sys

COMMANDS = ("sg", "bsg", "nvme")        # kinds for a table of their own
WORDS = ("nopin", "pinned", "held", "buffered", "refused")


class Line:
    """One "# path|...": a kind of I/O of one size, direction and mode"""

    def __init__(self, text):
        fields = text.rstrip("\n").split("|")
        if len(fields) != 11:
            sys.exit(f"what is this: {text}")
        _, self.path, self.kind, self.size, self.dir, self.mode = fields[:6]
        self.bios, self.pins = float(fields[6]), float(fields[7])
        self.held = int(fields[8])
        self.causes = dict(c.split("=") for c in fields[9].split())
        self.error = fields[10]

    def what(self):
        """What was counted, in words of the claims"""
        if self.error:
            return "refused:" + self.error
        if self.causes:
            return "pinned:" + "+".join(sorted(self.causes))
        if self.bios:
            return "nopin and pinned" if self.pins or self.held else "nopin"
        if self.pins:
            return "held and pinned" if self.held else "pinned"
        return "held" if self.held else "buffered"

    def counts(self):
        text = f"{self.size} {self.dir} {self.mode}: {self.bios:g} bios, {self.pins:g} pins"
        if self.held:
            text += f", {self.held} held"
        for cause, nr in self.causes.items():
            text += f", {nr} {cause}"
        return text + (", " + self.error if self.error else "")

    def wrong(self, claim):
        """Does it contradict the claim?"""
        what = self.what()
        if self.mode == "pin" and claim.split(":")[0] in ("nopin", "pinned"):
            claim = "pinned"
        if what != claim:
            return True
        # A fallback has to show in the pins as well, and each I/O as a bio
        if what.startswith("pinned"):
            return not self.pins or bool(self.bios)
        return what == "nopin" and self.bios < 1


def version(text):
    """The first two numbers, as they compare: of 6.12.117, say, or of 7.3"""
    return tuple(int(n) for n in re.findall(r"\d+", text)[:2])


class Claims:
    release = ()                # of the kernel that was counted

    def __init__(self, name):
        self.lines = []         # [path, kind, direction, claim, since, used]
        with open(name, encoding="utf-8") as f:
            for number, text in enumerate(f, 1):
                fields = text.split("#")[0].split()
                if not fields:
                    continue
                if len(fields) not in (4, 5) or fields[3].split(":")[0] not in WORDS:
                    sys.exit(f"{name}:{number}: not PATH KIND DIRECTION CLAIM [SINCE]: {text}")
                since = version(fields[4]) if len(fields) == 5 else ()
                self.lines.append(fields[:4] + [since, False])

    def of(self, *what):
        """Of a path, a kind and a direction"""
        for claim in self.lines:
            if self.release >= claim[4] and \
                    all(fnmatch.fnmatch(got, want) for got, want in zip(what, claim)):
                claim[5] = True
                return claim[3]
        return None

    def unused(self, skipped):
        """Those that nothing fits, unless that may be for what was skipped. What is the
        same on all kernels may be hidden by what later ones do"""
        return [" ".join(c[:4]) for c in self.lines if not c[5]
                and self.release >= c[4]
                and not any(fnmatch.fnmatch(path, c[0]) for path in skipped)
                and not any(o[4] and self.release >= o[4] and fnmatch.fnmatch(c[0], o[0])
                            for o in self.lines)]


class Tap:
    def __init__(self, claims):
        self.claims = claims
        self.number = self.failed = 0
        print("TAP version 13", flush=True)

    def result(self, ok, name, lines=()):
        self.number += 1
        self.failed += not ok
        for line in lines:
            print("#", line)
        print("ok" if ok else "not ok", self.number, name, flush=True)

    def path(self, lines, left):
        """All lines of one path, and the pins that are left"""
        for kind in dict.fromkeys(line.kind for line in lines):
            said, bad = {}, []
            for line in (line for line in lines if line.kind == kind):
                claim = self.claims.of(line.path, line.kind, line.dir)
                said.setdefault(claim or "no claim", set()).add(line.dir)
                if claim is None or line.wrong(claim):
                    bad.append(f"claimed {claim}, counted {line.what()}: {line.counts()}")
            text = ", ".join(claim if len(said) == 1 else f"{'/'.join(sorted(dirs))} {claim}"
                             for claim, dirs in said.items())
            modes = {line.mode for line in lines if line.kind == kind}
            if modes != {"pin", "nopin"}:
                bad.append("not in both modes")
            self.result(not bad, f"{lines[0].path} {kind}: {text}", bad)
        self.result(left == 0, f"{lines[0].path}: pins taken are pins released",
                    [f"{left} pins left"] if left else [])


def tap(claims, file, echo):
    """Judge one log as it comes"""
    out = Tap(claims)
    lines, skipped, left, ended = [], [], None, None

    def flush():
        nonlocal left
        if lines:
            out.path(lines, left)
            lines.clear()
        left = None

    for text in file:
        if echo:
            print(text if text.startswith("#") else "# " + text, end="", flush=True)
        fields = text.rstrip("\n").split("|", 2)
        if fields[0] == "# path":
            line = Line(text)
            if lines and lines[0].path != line.path:
                flush()
            lines.append(line)
        elif fields[0] == "# release":
            claims.release = version(fields[1])
        elif fields[0] == "# left":
            left = int(fields[2])
            flush()
        elif fields[0] == "# skip":
            skipped.append(fields[1])
            out.result(True, f"{fields[1]} # SKIP {fields[2]}")
        elif fields[0] == "# fail":
            out.result(False, f"{fields[1]}: {fields[2]}")
        elif fields[0] == "# end":
            ended = fields[1]
    flush()
    out.result(ended is not None, "paths.sh came to its end")
    if ended == "all":
        unused = claims.unused(skipped)
        out.result(not unused, "all claims are of use", unused)
    print(f"1..{out.number}")
    return 1 if out.failed else 0


def read(names):
    paths, skips = {}, {}
    for name in names:
        with open(name, encoding="utf-8", errors="replace") as f:
            for text in f:
                if text.startswith("# path|"):
                    line = Line(text)
                    paths.setdefault(line.path, []).append(line)
                elif text.startswith("# skip|"):
                    _, path, reason = text.rstrip("\n").split("|", 2)
                    skips[path] = reason
    return paths, skips


def cell_text(line):
    what = line.what()
    if what.startswith("pinned"):
        cause = what.partition(":")[2].replace("+", ", ")
        return f"{line.pins:g} pins" + (f" ({cause})" if cause else "")
    if what == "held":
        return f"{line.held} pins held"
    if what == "buffered":
        return "none counted"
    return what.replace("refused:", "")


def cell(lines):
    """Of I/Os of 64k in mode nopin; reads and writes where they differ, and those of 4k
    where they are of another sort"""
    texts = {}
    for line in lines:
        if line.mode == "nopin" and line.size == "64k":
            texts[line.dir] = cell_text(line)
    if not texts:
        return ""
    if len(set(texts.values())) == 1:
        text = next(iter(texts.values()))
    else:
        text = ", ".join(f"{d} {t}" for d, t in sorted(texts.items()))
    small = {line.what() for line in lines if line.mode == "nopin" and line.size == "4k"}
    large = {line.what() for line in lines if line.mode == "nopin" and line.size == "64k"}
    if small and small != large:
        text += " (4k: " + ", ".join(sorted(small)) + ")"
    return text


def tables(paths):
    """[head, rows] of I/O by system calls, and of commands. Neighbours that are the same
    in all rows are one column."""
    kinds = list(dict.fromkeys(line.kind for lines in paths.values() for line in lines))
    result = []
    for commands in (False, True):
        columns = []
        for kind in kinds:
            if kind.startswith(COMMANDS) != commands:
                continue
            cells = [cell([x for x in lines if x.kind == kind]) for lines in paths.values()]
            if columns and columns[-1][1] == cells:
                columns[-1][0].append(kind)
            else:
                columns.append(([kind], cells))
        rows = [[path] + [c[1][i] for c in columns] for i, path in enumerate(paths)]
        rows = [row for row in rows if any(row[1:])]
        if rows:
            result.append((["path"] + [", ".join(c[0]) for c in columns], rows))
    return result


def markdown(head, rows):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * w for w in widths], *rows]:
        print("| " + " | ".join(t.ljust(w) for t, w in zip(row, widths)) + " |")
    print()


def rst(head, rows):
    print(".. list-table::")
    print("   :header-rows: 1")
    for row in [head, *rows]:
        print()
        for i, text in enumerate(row):
            print("   " + ("* - " if i == 0 else "  - ") + text)
    print()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rst", action="store_true", help="reStructuredText")
    parser.add_argument("--tap", metavar="CLAIMS", help="judge by this list")
    parser.add_argument("log", nargs="+")
    args = parser.parse_args()

    if args.tap:
        if len(args.log) != 1:
            parser.error("--tap takes one log")
        claims = Claims(args.tap)
        if args.log[0] == "-":
            sys.exit(tap(claims, sys.stdin, True))
        with open(args.log[0], encoding="utf-8", errors="replace") as f:
            sys.exit(tap(claims, f, False))

    paths, skips = read(args.log)
    if not paths:
        sys.exit("no paths in there")
    for head, rows in tables(paths):
        (rst if args.rst else markdown)(head, rows)
    print("- Pins per I/O of 64 KiB with direct_io \"nopin\". \"none counted\": no pins, and no "
          "bio\n  without pins: through the page cache, copied, or plain references.")
    for path, reason in skips.items():
        print(f"- {path}: not tested: {reason}")


if __name__ == "__main__":
    main()
