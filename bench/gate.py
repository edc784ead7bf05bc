#!/usr/bin/env python3
"""What the gate costs: the same work on the real file system and through the gate, in turn, in one run.

Prints the ratio of the times (through the gate ÷ real) for each kind of work: median of the rounds, and all of them. Needs root; `--gate` is the example `gate` of crates/gate, built for release. The work is done by a small C program, so that an
interpreter's own time is not measured.
"""

import argparse
import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

WORK = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
static void fail(const char *w) { perror(w); exit(1); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static long walk(int fd, int stats) {
    DIR *d = fdopendir(fd); struct dirent *e; long n = 0;
    if (!d) fail("opendir");
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        struct stat s; n++;
        if (stats && fstatat(dirfd(d), e->d_name, &s, AT_SYMLINK_NOFOLLOW)) fail("stat");
        if (e->d_type == DT_DIR) { int c = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY); if (c < 0) fail("open"); n += walk(c, stats); }
    }
    closedir(d); return n;
}
int main(int argc, char **argv) {
    const char *how = argv[1]; char path[4096]; long n = atol(argv[3]), i; struct stat s;
    static char buf[1 << 20]; unsigned seed = 1;
    int each = 1000; double begin;
    if (chdir(argv[2])) fail(argv[2]);
#define NAME(p) snprintf(path, sizeof path, p "%ld/f%ld", i / each, i)
#define LOOP begin = now(); for (i = 0; i < n; i++)
    if (!strcmp(how, "create")) { for (i = 0; i < n; i += each) { snprintf(path, sizeof path, "n%ld", i / each); mkdir(path, 0755); }
        LOOP { NAME("n"); int f = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644); if (f < 0) fail(path); close(f); } }
    else if (!strcmp(how, "unlink")) { LOOP { NAME("n"); if (unlink(path)) fail(path); } }
    else if (!strcmp(how, "stat")) { LOOP { NAME("d"); if (stat(path, &s)) fail(path); } }
    else if (!strcmp(how, "read")) { LOOP { NAME("d"); int f = open(path, O_RDONLY); if (f < 0) fail(path); if (read(f, buf, 65536) < 0) fail(path); close(f); } }
    else if (!strcmp(how, "open")) { LOOP { NAME("d"); int f = open(path, O_RDONLY); if (f < 0) fail(path); close(f); } }
    else if (!strcmp(how, "find") || !strcmp(how, "findstat")) { begin = now(); int f = open(".", O_RDONLY | O_DIRECTORY); walk(f, how[4] != 0); }
    else {
        int f = open("big", O_RDWR | O_CREAT, 0644); if (f < 0 || fstat(f, &s)) fail("big");
        long size = s.st_size;
        if (!strcmp(how, "seqread")) { begin = now(); for (int r = 0; r < 4; r++) { lseek(f, 0, 0); while (read(f, buf, sizeof buf) > 0); } }
        else if (!strcmp(how, "randread")) { LOOP { if (pread(f, buf, 4096, (rand_r(&seed) % (size / 4096)) * 4096) != 4096) fail("pread"); } }
        else if (!strcmp(how, "seqwrite")) { begin = now(); for (int r = 0; r < 2; r++) for (long at = 0; at < size; at += sizeof buf) if (pwrite(f, buf, sizeof buf, at) < 0) fail("pwrite"); }
        else if (!strcmp(how, "randwrite")) { LOOP { if (pwrite(f, buf, 4096, (rand_r(&seed) % (size / 4096)) * 4096) != 4096) fail("pwrite"); } }
        else if (!strcmp(how, "mmapread")) { begin = now(); volatile long sum = 0; for (int r = 0; r < 4; r++) { char *m = mmap(0, size, PROT_READ, MAP_SHARED, f, 0); if (m == MAP_FAILED) fail("mmap"); for (long at = 0; at < size; at += 64) sum += m[at]; munmap(m, size); } }
        else if (!strcmp(how, "append")) { int a = open("log", O_WRONLY | O_CREAT | O_APPEND | O_TRUNC, 0644); LOOP { if (write(a, buf, 4096) != 4096) fail("write"); } }
        else return 2;
    }
    printf("%f\n", now() - begin); return 0;
}
"""

# Work, count, what is wanted at most, whether caches are dropped before.
ROWS = [
    ("seqread", 0, 1 / 0.97, False), ("randread", 100000, 1 / 0.97, False), ("mmapread", 0, 1 / 0.97, False),
    ("seqwrite", 0, 1 / 0.9, False), ("randwrite", 50000, 1 / 0.9, False), ("append", 20000, 1 / 0.9, False),
    ("stat", 100000, 1.1, False), ("find", 0, 1.1, False), ("findstat", 0, None, False),
    ("read", 50000, 4, False), ("open", 50000, None, False), ("create", 20000, 3, False), ("unlink", 20000, 3, False),
    ("stat", 100000, 2.5, True),
]


def write_back(folder):
    """Makes one file system's files clean; `sync` would wait for every other one too, also for mounts whose server stands still."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            raise OSError(ctypes.get_errno(), "syncfs", folder)
    finally:
        os.close(handle)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gate", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=100000)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    place = tempfile.mkdtemp(prefix="gate-bench-")
    tree, mount, plain = (os.path.join(place, name) for name in ("tree", "mnt", "plain"))
    program = os.path.join(place, "work")
    subprocess.run(["cc", "-O2", "-o", program, "-xc", "-"], input=WORK, text=True, check=True)
    for top in (tree, plain):
        for index in range(arguments.files):
            if index % 1000 == 0:
                os.makedirs(f"{top}/d{index // 1000}")
            with open(f"{top}/d{index // 1000}/f{index}", "wb") as file:
                file.write(b"x" * 1000)
        with open(f"{top}/big", "wb") as file:
            file.write(os.urandom(1 << 20) * 256)
    write_back(place)
    os.mkdir(mount)
    holder = subprocess.Popen([arguments.gate, tree, mount], stdout=subprocess.PIPE)
    holder.stdout.readline()

    def run(how, where, count, cold):
        if cold:
            write_back(place)
            with open("/proc/sys/vm/drop_caches", "w") as file:
                file.write("3")
        done = subprocess.run([program, how, where, str(count)], capture_output=True, text=True, check=True)
        return float(done.stdout)

    failed = False
    try:
        for how, count, limit, cold in ROWS:
            if arguments.only and how not in arguments.only.split(","):
                continue
            count = min(count, arguments.files) if how in ("stat", "read", "open") else count
            if not cold and how not in ("create", "unlink"):
                run(how, plain, count, False), run(how, mount, count, False)
            ratios, times = [], []
            for _ in range(arguments.rounds):
                if how == "unlink":
                    run("create", plain, count, False), run("create", mount, count, False)
                real = run(how, plain, count, cold)
                through = run(how, mount, count, cold)
                if how == "create":
                    run("unlink", plain, count, False), run("unlink", mount, count, False)
                ratios.append(through / real)
                times.append((real, through))
            ratio = statistics.median(ratios)
            real, through = (statistics.median(side) for side in zip(*times))
            ok = "" if limit is None else ("ok" if ratio <= limit else "ABOVE")
            failed |= ok == "ABOVE"
            each = f"{real / count * 1e6:6.2f} → {through / count * 1e6:6.2f} µs" if count else f"{real * 1e3:6.1f} → {through * 1e3:6.1f} ms"
            name = how + (" cold" if cold else "")
            limits = f"≤ {limit:.2f}" if limit else ""
            print(f"{name:10} {ratio:5.2f}  {limits:7} {ok:5} {each}   {' '.join(f'{r:.2f}' for r in ratios)}", flush=True)
    finally:
        subprocess.run(["umount", mount])
        holder.wait()
        shutil.rmtree(place)
    return failed


if __name__ == "__main__":
    sys.exit(main())
