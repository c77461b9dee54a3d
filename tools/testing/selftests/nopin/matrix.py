#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""The matrix as a table: what memory management could do to a page under I/O, with
pins and without, from the logs of "run.sh pin matrix" and "run.sh nopin matrix".

    matrix.py [--rst] [--check] LOG [LOG]

prints a table in Markdown, or in reStructuredText. With --check it says instead what
is red, and what succeeds with pins but not without, and fails if there is anything."""

import argparse
import sys

# Where a wait for the I/O buys nothing: whoever does that must not take longer than
# with pins
AT_ONCE = ("mremap to elsewhere", "munmap", "MADV_DONTNEED", "fork",
           "memory failure (hwpoison)", "SIGKILL and exit", "OOM kill in a cgroup")
COLUMNS = ("O_DIRECT in flight", "AIO in flight", "registered idle", "registered busy")
RESULTS = ("ok", "ok after", "refused", "fails", "corrupts")

NOTES = (
    ("", "A cell is: with pins -> without. \"ok\" is at once, \"ok after\" the time that "
     "the operation took with all tries: up to five, without a pause."),
    (" [1]", "It never waits for I/O, as it may be needed to complete that I/O (reclaim, "
     "compaction for an allocation): pages with I/O in flight are left alone. "
     "With a busy registered buffer it is tried for up to two seconds."),
    ("*", "The device still wrote to the memory after the operation had returned."),
    ("", "\"refused, then ok\": it left the pages where they are, and succeeded when "
     "the I/O had ended."),
)


class Cell:
    def __init__(self, result, us, detail):
        self.result = result
        self.us = us
        self.detail = detail
        self.never_waits = "never waits" in detail
        self.then_ok = result == "refused" and "ok when the I/O has ended" in detail

    def text(self):
        if self.result == "ok after":
            text = "ok after " + duration(self.us)
        elif self.then_ok:
            text = "refused, then ok"
        else:
            text = self.result
        return text + ("*" if "written after" in self.detail else "")

    def red(self):
        """Why this is no result to have without pins"""
        if self.result in ("fails", "corrupts"):
            return self.result
        if self.result == "refused" and not (self.never_waits and self.then_ok):
            return "refused"
        return None

    def rank(self):
        """What is refused only while the I/O lasts is a matter of timing"""
        if self.result in ("ok", "ok after") or (self.never_waits and self.then_ok):
            return 0
        return RESULTS.index(self.result) + (0 if self.then_ok else 1)


def duration(us):
    if us < 1000:
        return f"{us} us"
    if us < 10000:
        return f"{us / 1000:.1f} ms"
    if us < 1000000:
        return f"{us / 1000:.0f} ms"
    return f"{us / 1000000:.1f} s"


def read(names):
    """The cells by mode, operation and column, and the operations in order"""
    cells, order = {"pin": {}, "nopin": {}}, []
    for name in names:
        with open(name, encoding="utf-8", errors="replace") as f:
            for line in f:
                if not line.startswith("# matrix|"):
                    continue
                fields = line.rstrip("\n").split("|")
                if len(fields) != 7 or fields[3] not in cells or \
                        fields[4] not in RESULTS:
                    sys.exit(f"{name}: what is this: {line}")
                _, op, column, mode, result, us, detail = fields
                cells[mode][op, column] = Cell(result, int(us.split()[0]), detail)
                if op not in order:
                    order.append(op)
    return cells, order


def table(cells, order):
    """A header and rows of text, and the operations that never wait"""
    modes = [mode for mode in ("pin", "nopin") if cells[mode]]
    never = {op for mode in modes for (op, _), c in cells[mode].items() if c.never_waits}
    rows = []
    for op in order:
        row = [op + (" [1]" if op in never else "")]
        for column in COLUMNS:
            texts = [cells[mode][op, column].text() if (op, column) in cells[mode]
                     else "not tested" for mode in modes]
            row.append(" -> ".join(texts))
        rows.append(row)
    return ["operation", *COLUMNS], rows


def markdown(head, rows):
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, ["-" * w for w in widths], *rows]:
        print("| " + " | ".join(t.ljust(w) for t, w in zip(row, widths)) + " |")
    print()
    for mark, text in NOTES:
        print("-", (mark.strip().replace("*", "\\*") + " " + text).strip())


def rst(head, rows):
    print(".. list-table::")
    print("   :header-rows: 1")
    print("   :widths: 20 20 20 20 20")
    for row in [head, *rows]:
        print()
        for i, text in enumerate(row):
            print("   " + ("* - " if i == 0 else "  - ") + text.replace("*", "\\*"))
    print()
    for mark, text in NOTES:
        print("-", (mark.strip().replace("*", "\\*") + " " + text).strip())


def check(cells, order):
    """Everything that is wrong, as lines"""
    wrong = []
    for op in order:
        for column in ("none", *COLUMNS):
            pin = cells["pin"].get((op, column))
            nopin = cells["nopin"].get((op, column))
            where = f"{op}, {column}"
            if pin and pin.result == "corrupts":
                wrong.append(f"{where}: pin corrupts: {pin.detail}")
            if not nopin:
                if cells["nopin"]:
                    wrong.append(f"{where}: not tested without pins")
                continue
            if nopin.red():
                wrong.append(f"{where}: nopin {nopin.red()}: {nopin.detail}")
            elif pin and (nopin.rank() > pin.rank() or op in AT_ONCE and
                          (pin.result, nopin.result) == ("ok", "ok after")):
                wrong.append(f"{where}: pin {pin.text()}, nopin {nopin.text()}")
    if not cells["nopin"]:
        wrong.append("no results without pins")
    return wrong


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rst", action="store_true", help="reStructuredText")
    parser.add_argument("--check", action="store_true", help="is nopin as good as pin?")
    parser.add_argument("log", nargs="+")
    args = parser.parse_args()

    cells, order = read(args.log)
    if not order:
        sys.exit("no matrix in there")
    if args.check:
        wrong = check(cells, order)
        print("\n".join(wrong or ["all as it should be"]))
        sys.exit(bool(wrong))
    (rst if args.rst else markdown)(*table(cells, order))


if __name__ == "__main__":
    main()
