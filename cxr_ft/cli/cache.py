"""Fill the pixel cache before training: the command cxr-cache."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cxr_ft.cli._command import DONE, Parser, guarded
from cxr_ft.cli._flags import ray


def parser() -> Parser:
    """Return the parser of the command's flags."""
    p = Parser(
        "cxr-cache",
        "Decode the images of splits into the pixel cache. Training does so itself where images are missing; this "
        "command does it beforehand, or in parts on several machines that share the cache folder.",
    )
    p.add_argument("splits", type=Path, help="folder that cxr-split wrote")
    p.add_argument("--size", type=int, required=True, default=argparse.SUPPRESS, help="image side of the base, as 224")
    p.add_argument("--shard", default="1/1", metavar="I/N", help="this machine's part of the work")
    p.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core, 16 at most)")
    p.add_argument("--root", metavar="DIR", help="folder of the images (default: the one in the manifest)")
    ray(p, "decode the images")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 for bad input."""
    return guarded("cxr-cache", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    from cxr_ft.data.pixels import cache

    part = cache.part_of(args.shard)
    if "ray" in args:
        from cxr_ft.data.pixels.ray_cluster import build_on_ray
        from cxr_ft.errors import UsageError

        if part != (1, 1) or args.workers is not None:
            raise UsageError("--shard and --workers cannot be combined with --ray, which distributes the work itself")
        built = build_on_ray(args.splits, args.size, args.ray or None, args.root)
    else:
        built = cache.build(args.splits, args.size, part, args.workers, args.root)
    print(
        f"{built.folder}: {built.images} images in {built.shards} shards; {built.made} made, {built.whole} existed, "
        f"{built.mended} repaired, {built.missing} still missing"
    )
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
