"""Make flags from a plug-in's own Config, so that a new method brings its flags with its file."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import config, plugins
from cxr_ft.cli._command import Parser
from cxr_ft.errors import UsageError

if TYPE_CHECKING:
    from cxr_ft.run.trackers import Tracking


def common(p: argparse.ArgumentParser) -> None:
    """Add the flags of a run that do not depend on the method."""
    p.add_argument("--splits", metavar="DIR", help="folder that cxr-split wrote (default: the phantom's)")
    p.add_argument(
        "--model", metavar="NAME", help=f"shipped name, folder or hub name (default: {config.DEFAULT_MODEL})"
    )
    p.add_argument(
        "--task", metavar="NAME", help=f"one of {', '.join(plugins.choices(plugins.HEADS))} (default: classify)"
    )
    p.add_argument("--config", type=Path, metavar="YAML", help="a configuration, or the result.json of a run to repeat")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other option, as train.epochs=3"
    )


def ray(p: argparse.ArgumentParser, work: str) -> None:
    """Add --ray, which does `work` on a cluster; the argument is absent without the flag, empty without an address."""
    p.add_argument(
        "--ray",
        nargs="?",
        const="",
        default=argparse.SUPPRESS,
        metavar="ADDRESS",
        help=f"{work} on a Ray cluster (default: this machine's, or a new one)",
    )


def trackers(p: argparse.ArgumentParser) -> None:
    """Add the flags of a tracker."""
    known = ", ".join(plugins.choices(plugins.TRACKERS))
    p.add_argument("--track", metavar="NAME", help=f"send numbers to a tracker: {known} (default: none)")
    p.add_argument("--include-data", action="store_true", help="send predictions, texts and images to the tracker, too")


def other_base(p: argparse.ArgumentParser) -> None:
    """Add --other-base."""
    p.add_argument(
        "--other-base",
        action="store_true",
        help="allow a base whose weights are not those recorded in result.json; it is noted",
    )


def tracking(args: argparse.Namespace) -> "Tracking":
    """Return the values of the flags of `trackers`."""
    from cxr_ft.run.trackers import Tracking

    return Tracking(name=args.track or "", include_data=args.include_data)


def train_parser(argv: Sequence[str]) -> tuple[Parser, str]:
    """Return cxr-train's parser with the flags of the method that `argv` (or its --config) names, and that name."""
    # Parsed twice: the method has to be known before its flags can be added.
    first = Parser("cxr-train", "", add_help=False)
    first.add_argument("--method")
    first.add_argument("--config", type=Path)
    known, _ = first.parse_known_args(argv)
    # --help must work with a broken or missing file.
    wants_help = {"-h", "--help"} & set(argv)
    from_file = config.read_yaml(known.config).get("tuning") or {} if known.config and not wants_help else {}
    method = known.method or (from_file.get("name") if isinstance(from_file, dict) else None) or "lora"
    p = Parser(
        "cxr-train",
        "Fine-tune a base on splits: train, choose the best epoch on val, save, reload, test once.",
    )
    common(p)
    p.add_argument(
        "--method", metavar="NAME", help=f"one of {', '.join(plugins.choices(plugins.TUNING))} (default: lora)"
    )
    p.add_argument("--seed", type=int, metavar="S", help="seed of the run (default: 0)")
    p.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/...)")
    trackers(p)
    other_base(p)
    p.add_argument("--plan", action="store_true", help="print what would be trained and stop, without data and weights")
    group = p.add_argument_group(f"options of method {method}")
    for field in dataclasses.fields(plugins.load(plugins.TUNING, str(method)).Config):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(
            f"--{field.name}", dest=f"tuning.{field.name}", metavar="X", help=field.metadata["help"] + shown
        )
    return p, str(method)


def parse_train(parser: Parser, method: str, argv: Sequence[str]) -> argparse.Namespace:
    """Return the flags of cxr-train.

    Raises:
        UsageError: for a flag that does not exist; one of another method is named as such.
    """
    args, unknown_flags = parser.parse_known_args(argv)
    if not unknown_flags:
        return args
    flag = unknown_flags[0].partition("=")[0]
    having = [
        name
        for name in plugins.choices(plugins.TUNING)
        if flag.removeprefix("--") in [f.name for f in dataclasses.fields(plugins.load(plugins.TUNING, name).Config)]
    ]
    if having:
        raise UsageError(f"{flag}: method {method} has no such option; methods that have it: {', '.join(having)}")
    return parser.error(f"unrecognized arguments: {' '.join(unknown_flags)}")


def raw_config(args: argparse.Namespace) -> dict[str, object]:
    """Return defaults < --config < flags < --set as nested mappings for `config.resolve`."""
    layers = [config.read_yaml(args.config)] if args.config else []
    flags: dict[str, object] = {}
    places = {
        "splits": "data.splits",
        "model": "model",
        "task": "head.name",
        "method": "tuning.name",
        "seed": "train.seed",
    }
    for flag, place in places.items():
        if (value := getattr(args, flag, None)) is not None:
            flags = config.merge(flags, config.nest(place.split("."), value))
    for key, value in vars(args).items():
        if key.startswith("tuning.") and value is not None:
            flags = config.merge(flags, config.assignment(f"{key}={value}"))
    # Options of the file's method would be refused as unknown ones of the method that a flag names.
    layers = [_without_other_options(layer, flags) for layer in layers]
    return config.merge(*layers, flags, *(config.assignment(text) for text in args.set))


def _without_other_options(layer: dict[str, object], flags: dict[str, object]) -> dict[str, object]:
    """Return the file's layer without the options of a head or method that a flag replaces by another one."""
    out = dict(layer)
    for part in ("head", "tuning"):
        name, own = config.mapping(flags, part).get("name"), out.get(part)
        if name is not None and isinstance(own, dict) and own.get("name") != name:
            del out[part]
    return out
