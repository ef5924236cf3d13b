#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures a build on this machine, which should do nothing else meanwhile.

  plans     predicted speed beside measured speed, for many plans and links
  load      many requests: the simulator beside real clients, for 1 to 5 workers
  exact     two models of a few GB: every split gives the bits of one worker, over real distances
  wire      bytes and frames of a token: counted by the program, by the network, by the formula
  hosts     prefill of two hosts of experts beside that of one
  sparse    a model of 225 GB that takes no disk, on three workers of this machine
  recovery  pauses of a stream when a worker is killed, drained, joins

Links between machines are emulated by ../shared/tools/netlab.c, which needs root, ip and cc; what
needs it is skipped where they are missing. Each worker has one thread unless the plan says another
number, and no plan has more than two workers that compute at a time, so that two processors are
enough.
"""
import argparse
import importlib
import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "cluster")]
import cluster  # noqa: E402

MODES = ("plans", "load", "exact", "wire", "hosts", "sparse", "recovery")


def arguments():
    parser = argparse.ArgumentParser(prog="./measure", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--build", default="build", help="folder with the programs (build)")
    parser.add_argument("--only", metavar="TEXT", action="append", default=[],
                        help="rows whose name has this; may be given often")
    parser.add_argument("--rounds", type=int, default=1, metavar="N",
                        help="of plans: profiles and speeds are measured so often, and the medians "
                             "shown (1)")
    parser.add_argument("--models", metavar="FOLDER", help="where models of a few GB are kept")
    parser.add_argument("--save", metavar="FILE", help="add the rows to a file, a JSON each")
    parser.add_argument("--show", metavar="FILE", help="measure nothing: the table of such a file")
    options = parser.parse_args()
    if options.show and not pathlib.Path(options.show).is_file():
        parser.error(f"--show {options.show}: expected a file that --save wrote, found none")
    if not options.show and not pathlib.Path(options.build, "CMakeCache.txt").is_file():
        parser.error(f"--build {options.build}: expected a folder with a build, found none: "
                     f"./quickstart makes one")
    return options


def main():
    options = arguments()
    mode = importlib.import_module(options.mode)
    if options.show:
        try:
            mode.show(pathlib.Path(options.show))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"measure: {options.show}: expected rows that --save wrote of {options.mode}, "
                  f"found others: {error!r}", file=sys.stderr)
            return 2
        return 0
    with tempfile.TemporaryDirectory(prefix="caravan-measure-") as folder:
        world = cluster.World(options.build, pathlib.Path(folder))
        world.patience_s = 900
        return 0 if mode.run(world, options) else 1


if __name__ == "__main__":
    sys.exit(main())
