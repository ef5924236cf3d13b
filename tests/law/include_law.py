#!/usr/bin/env python3
"""The include law: which folder may include which, and which libraries appear where.

Prints each include that breaks it and ends with a status of 1.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")

# Folder: the folders it may include besides itself.
FOLDERS = {
    "proto": set(),
    "kernels": {"proto"},
    "shard": {"kernels", "proto"},
    "net": {"proto"},
    "worker": {"net", "shard", "kernels", "proto"},
    "coordinator": {"net", "shard", "kernels", "proto"},
}

# Header pattern: where it may appear.
LIBRARIES = {
    r"uv\.h": "net/",
    r"zmq\.h": "net/",
    r"vulkan/.*": "kernels/vulkan/",
    r".*\.pb-c\.h": "proto/",
    r"protobuf-c/.*": "proto/",
    r"microhttpd\.h": "coordinator/api/",
    r"curl/.*": "coordinator/api/",
    r"pcre2\.h": "coordinator/text/",
    r"histedit\.h": "coordinator/chat_input.c",
    r"jansson\.h": "coordinator/",
    r"cblas\.h": "kernels/blas.c",
    r"sqlite3\.h": "coordinator/journal",
    r"yaml\.h": "coordinator/plan/tree.c",
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)', re.M)


def broken_rules(path):
    name = path.relative_to(ROOT).as_posix()
    folder = name.split("/")[0]
    for own, system in INCLUDE.findall(path.read_text()):
        header = own or system
        target = header.split("/")[0]
        if own and target in FOLDERS and target != folder and target not in FOLDERS[folder]:
            yield f"{name}: {folder}/ may not include {header}"
        if own and "/" not in header and not header.endswith(".pb-c.h"):
            yield f"{name}: include \"{header}\" by its path from the root"
        for pattern, place in LIBRARIES.items():
            if re.fullmatch(pattern, header) and not name.startswith(place):
                yield f"{name}: {header} belongs in {place} alone"


def main():
    files = [p for f in FOLDERS for p in sorted((ROOT / f).rglob("*.[ch]"))]
    broken = [line for path in files for line in broken_rules(path)]
    print("\n".join(broken) if broken else f"{len(files)} files keep the include law")
    return 1 if broken or not files else 0


sys.exit(main())
