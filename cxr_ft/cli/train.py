"""cxr-train: one run."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ft import config
from cxr_ft.cli._command import DONE, FOUND, guarded
from cxr_ft.cli._flags import raw_config, tracking, train_parser

if TYPE_CHECKING:
    from cxr_ft.run.record.results import Result


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, 1 where training failed, 2 for bad input."""
    return guarded("cxr-train", lambda: _main(sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    parser, _ = train_parser(argv)
    parser.add_argument(
        "--export",
        choices=("merged", "adapter"),
        help="also write the run to RUN/export for transformers or PEFT alone: merged into the base, or beside it",
    )
    args = parser.parse_args(argv)
    resolved = config.resolve(raw_config(args), where=str(args.config or "the flags"))
    follows = tracking(args)
    if args.plan:
        return _plan(resolved)
    import dataclasses

    from cxr_ft.data import manifest

    if not resolved.data.splits:
        splits = manifest.default_splits()
        print(f"no --splits given: the phantom's, in {splits}")
        resolved = dataclasses.replace(resolved, data=dataclasses.replace(resolved.data, splits=str(splits)))
    from cxr_ft.run.training import train
    from cxr_ft.run.training.loop import TrainingError

    out = args.out or default_out(resolved)
    if args.export:
        from cxr_ft.run.record import export

        export.check(resolved, args.export)
    _say_plan(resolved, out)
    announced: list[dict[str, Any]] = []

    def announce(planned: dict[str, Any]) -> None:
        announced.append(planned)
        _say_trained(planned)

    try:
        result = train.fit(resolved, out, announce=announce, tracking=follows)
    except TrainingError as error:
        print(f"cxr-train: failed: {error}", file=sys.stderr)
        return FOUND
    if not announced:
        print("this very run is already there: nothing was trained")
    _say(result, out)
    if args.export:
        _say_export(*export.export(out, args.export))
    return DONE


def _say_export(folder: Path, drift: Any) -> None:
    print(f"exported, with a README that says how to load it: {folder}")
    if drift is not None:
        far = f"{drift.largest:.2g} at most, {drift.mean:.2g} on average"
        print(f"merged logits on {drift.rows} rows of val differ by {far}")


def default_out(resolved: config.RunConfig) -> Path:
    """`runs/<splits>-<task>-<method>-<what distinguishes it>-s<seed>-<hash>`."""
    tuning = resolved.tuning.to_json()
    targets = ".".join(tuning.get("targets") or ())
    words = [
        Path(resolved.data.splits).name,
        resolved.head.name,
        resolved.tuning.name,
        targets,
        f"s{resolved.train.seed}",
    ]
    return Path("runs") / "-".join([word for word in words if word] + [resolved.fingerprint({})[:8]])


def _plan(resolved: config.RunConfig) -> int:
    from cxr_ft.cli import _plan
    from cxr_ft.data import manifest
    from cxr_ft.data.labels import CHEXPERT_14
    from cxr_ft.run.cost.run_forecast import forecast
    from cxr_ft.run.training.train import plan

    labels: tuple[str, ...] = CHEXPERT_14
    multi_label, splits = True, None
    if resolved.data.splits:
        splits = manifest.read(Path(resolved.data.splits))
        labels, multi_label = splits.card.labels, splits.card.multi_label
    planned = plan(resolved, labels, multi_label)
    print(
        f"model   {resolved.model}\ntask    {resolved.head.name}, {len(labels)} labels\nmethod  {resolved.tuning.name}"
    )
    for name, value in resolved.tuning.to_json().items():
        if name != "name":
            print(f"  {name} = {','.join(value) if isinstance(value, list) else value}")
    _say_trained(planned)
    _plan.say(resolved, forecast(resolved, labels, multi_label, splits))
    return DONE


def _say_trained(planned: dict[str, Any]) -> None:
    print(f"trained modules ({len(planned['modules'])}):")
    for name in planned["modules"]:
        print(f"  {name}")
    for note in planned["notes"]:
        print(f"note: {note}")
    _say_parameters(planned["parameters"])


def _say_plan(resolved: config.RunConfig, out: Path) -> None:
    what = f"{resolved.head.name} with {resolved.tuning.name} on {resolved.model}"
    print(f"{what}, seed {resolved.train.seed}; run folder {out}")


def _say_parameters(count: dict[str, int]) -> None:
    share = 100 * count["trainable"] / count["total"]
    print(
        f"parameters: {count['trainable']:,} trained of {count['total']:,} ({share:.3f} %): "
        f"{count['adapter']:,} in adapter or base, {count['head']:,} in the head"
    )


def _say(result: "Result", out: Path) -> None:
    for side in ("train", "val", "test", "test_natural"):
        print(f"{side:13}{_line(result.metrics.get(side) or {})}")
    print(f"saved, reloaded in a fresh process, then tested: {out}")


def _line(metrics: dict[str, Any]) -> str:
    from cxr_ft.score.metrics import registry

    shown = {"loss": metrics.get("loss")}
    shown |= {known.key: known.value(metrics) for known in registry.shown_in("command") if known.recorded_in(metrics)}
    return "  ".join(f"{key} {'undefined' if value is None else f'{value:.4f}'}" for key, value in shown.items())


if __name__ == "__main__":
    raise SystemExit(main())
