"""Train one run: the command cxr-train."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_ft import config
from cxr_ft.cli._command import DONE, FAILED, guarded
from cxr_ft.cli._flags import parse_train, raw_config, tracking, train_parser
from cxr_ft.cli._printed import forecast_lines, metrics_line
from cxr_ft.errors import TrainingError

if TYPE_CHECKING:
    from cxr_ft.run.record.export import Drift
    from cxr_ft.run.record.result_parts import ParameterCount, TrainingPlan
    from cxr_ft.run.record.results import Result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where training failed, or 2 for bad input."""
    return guarded("cxr-train", lambda: _main(sys.argv[1:] if argv is None else argv))


def _main(argv: Sequence[str]) -> int:
    parser, method = train_parser(argv)
    parser.add_argument(
        "--export",
        choices=("merged", "adapter"),
        help="also write RUN/export for transformers or PEFT alone: merged into the base, or the adapter",
    )
    args = parse_train(parser, method, argv)
    resolved = config.resolve(raw_config(args), where=str(args.config or "the flags"))
    tracker = tracking(args)
    if args.plan:
        return _plan(resolved)
    import dataclasses

    from cxr_ft.data.splits.write import default_splits

    if not resolved.data.splits:
        splits = default_splits()
        print(f"no --splits: using the phantom's, {splits}")
        resolved = dataclasses.replace(resolved, data=dataclasses.replace(resolved.data, splits=str(splits)))
    from cxr_ft.data import manifest

    # Before torch is loaded, which takes seconds: `fit` would say the same.
    manifest.recorded_root(Path(resolved.data.splits))
    from cxr_ft.run.record import base_record
    from cxr_ft.run.training import train

    out = args.out or train.default_out(resolved)
    if args.export:
        from cxr_ft.run.record import export

        # An export that cannot work is refused before the training, not after it.
        export.check(resolved, args.export)
    _print_start(resolved, out)
    announced: list[TrainingPlan] = []

    def announce(planned: "TrainingPlan") -> None:
        announced.append(planned)
        _print_plan(planned)

    try:
        result = train.fit(
            resolved,
            out,
            announce=announce,
            tracking=tracker,
            other_base=args.other_base,
            repeats=base_record.of_configuration(args.config, resolved.model),
        )
    except TrainingError as error:
        print(f"cxr-train: failed: {error}", file=sys.stderr)
        return FAILED
    # `fit` announces its plan only if it trains.
    if not announced:
        print("the same run is already finished: nothing was trained")
    _print_result(result, out)
    if args.export:
        _print_export(*export.export(out, args.export, other_base=args.other_base))
    return DONE


def _print_export(folder: Path, drift: "Drift | None") -> None:
    print(f"exported, with a README with the code that loads it: {folder}")
    if drift is not None:
        sizes = f"{drift.largest:.2g} at most, {drift.mean:.2g} on average"
        print(f"logits of the merged model on {drift.rows} rows of val differ by {sizes}")


def _plan(resolved: config.RunConfig) -> int:
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
    _print_plan(planned)
    print("\n".join(forecast_lines(resolved, forecast(resolved, labels, multi_label, splits))))
    return DONE


def _print_plan(planned: "TrainingPlan") -> None:
    print(f"trained modules ({len(planned['modules'])}):")
    for name in planned.modules:
        print(f"  {name}")
    for note in planned.notes:
        print(f"note: {note}")
    _print_parameters(planned.parameters)


def _print_start(resolved: config.RunConfig, out: Path) -> None:
    run = f"{resolved.head.name} with {resolved.tuning.name} on {resolved.model}"
    print(f"{run}, seed {resolved.train.seed}; run folder {out}")


def _print_parameters(count: "ParameterCount") -> None:
    share = 100 * count.trainable / count.total
    print(
        f"parameters: {count.trainable:,} trained of {count.total:,} ({share:.3f} %): "
        f"{count.adapter:,} in adapter or base, {count.head:,} in the head"
    )


def _print_result(result: "Result", out: Path) -> None:
    for split in ("train", "val", "test", "test_natural"):
        print(f"{split:13}{metrics_line(result.metrics.get(split) or {})}")
    print(f"saved, reloaded in a fresh process, then evaluated on test: {out}")


if __name__ == "__main__":
    raise SystemExit(main())
