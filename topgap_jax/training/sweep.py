"""A sweep over k: one run per k, all by the same compiled programs, and which k the validation chooses."""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from topgap_jax.models import create_model
from topgap_jax.training.checkpoint import claim, writing
from topgap_jax.training.compilation import use_compilation_cache
from topgap_jax.training.config import ConfigError, resolve, twin_of
from topgap_jax.training.distributed import started_tasks
from topgap_jax.training.evaluate import evaluate_run, machine
from topgap_jax.training.loop import Programs, Run, export, make_programs, prepare, train, validate
from topgap_jax.training.metrics import TrainingLog, identity
from topgap_jax.training.runs import write_json
from topgap_jax.training.splits import test_names
from topgap_jax.training.state import TrainState
from topgap_jax.training.sweep_figures import RULE, choose, compare_with, run_figures
from topgap_jax.training.together import idle_devices, train_together, write_metrics

Report = Callable[[str], None]
AfterRun = Callable[[Path], object]


class Sweep(NamedTuple):
    """What is to be trained, checked."""

    config: ml_collections.FrozenConfigDict
    workdir: Path
    ks: tuple[int, ...]  # ascending
    seeds: tuple[int, ...]
    run: Run  # of the largest k; the others differ in configuration, folder and model
    twins: tuple[Run, ...]  # one per seed, or none
    cam_shape: tuple[int, int]  # h, w


def sweep(
    config: Mapping[str, Any],
    workdir: str | Path,
    ks: Sequence[int],
    *,
    seeds: Sequence[int] = (),
    together: int = 1,
    report: Report | None = None,
    after_run: AfterRun | None = None,
) -> Path:
    """Trains and evaluates `config` for every k, each in `workdir/k=N`, and compares them.

    k is data of the compiled programs: training step, evaluation and attacks are compiled once, whatever the
    number of k. Each member is a run of its own, to the bit that of `train_and_evaluate`; the twin of the
    configuration is trained once, in `workdir/twin`. Started again after any interruption, finished members
    are kept and the unfinished one goes on from its checkpoint.

    Args:
      config: as for `train_and_evaluate`, with `model.pool="topk"`; its own k plays no part.
      workdir: folder of the sweep; made if missing.
      ks: positions of the CAM that are averaged, each from 1 to h*w.
      seeds: every k is trained with each of them, in `workdir/k=N,seed=M`; default: that of `config` alone.
      together: so many k are trained at once, as one program, divided over the devices; their results differ
        from those of single runs by rounding.
      report: called with lines of text on the way.
      after_run: called with the folder of each finished member, and that of the twin.

    Returns:
      The path of `workdir/sweep.json`.

    Raises:
      ConfigError: as `train_and_evaluate`, and for k, seeds or a workdir that cannot be used; before any long
        work starts.
      DataError: as `train_and_evaluate`; the members finished so far stay.
      FloatingPointError: the loss of every k, of a whole group, or of the twin became infinite or NaN. If it
        is one k of several, the others go on, and `sweep.json` says so.
    """
    report, after_run = report or (lambda line: None), after_run or (lambda directory: None)
    try:
        plan = prepare_sweep(config, workdir, ks, seeds=seeds, together=together)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(str(error)) from error
    diverged: dict[str, str] = {}
    for seed in plan.seeds or (plan.config.seed,):
        runs = [member(plan, k, seed) for k in plan.ks]
        if together == 1:
            diverged |= _train_singly(runs, report, after_run)
            continue
        for start in range(0, len(runs), together):
            _train_group(plan, runs[start : start + together], report, after_run)
    for twin in plan.twins:
        if lost := _train_singly([twin], report, after_run):
            raise FloatingPointError(lost[twin.directory.name])
    return write_summary(plan, diverged)


def prepare_sweep(
    config: Mapping[str, Any], workdir: str | Path, ks: Sequence[int], *, seeds: Sequence[int], together: int
) -> Sweep:
    """Finds every mistake that can be found before training, and claims the workdir.

    Raises:
      ValueError, TypeError, OSError: see `sweep`.
    """
    whole = resolve(config)
    check_sweep(whole, str(workdir), ks, seeds, together)
    use_compilation_cache(whole.compilation_cache)
    workdir, ks, seeds = Path(workdir), tuple(sorted(ks)), tuple(seeds)
    run = prepare(member_config(whole, ks[-1], whole.seed), workdir)
    twins: list[Run] = []
    if (plain := twin_of(whole)) is not None:
        twin = prepare(plain, workdir / "twin", beside=run)
        twins += [
            _rebuilt(twin, _with(plain, seed=seed), workdir / f"twin,seed={seed}") for seed in seeds
        ] or [twin]
    validation = run.sources[whole.data.validation].image_shape
    assert validation is not None  # or `prepare` would have refused it
    _, height, width, _ = run.model.cam_shape(validation)
    plan = Sweep(whole, workdir, ks, seeds, run, tuple(twins), (height, width))
    _claim(plan)
    return plan


def check_sweep(config: Any, workdir: str, ks: Sequence[int], seeds: Sequence[int], together: int) -> None:
    """Raises a ValueError for what can be seen without data or network."""
    if not workdir:
        raise ValueError("no workdir given: name a folder for the sweep, such as runs/sweep")
    for name, values in (("k", ks), ("seeds", seeds)):
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name}={value!r} is not an integer")
            if values.count(value) > 1:
                raise ValueError(f"{name} lists {value} more than once")
    if not ks:
        raise ValueError("no k given: name at least one, such as 64,128,256")
    if min(ks) < 1:
        raise ValueError(f"k={min(ks)} is too small: at least 1")
    if config.model.pool != "topk":
        raise ValueError(f"model.pool={config.model.pool!r} has no k to sweep over: use model.pool='topk'")
    if config.data.folds:
        raise ValueError(f"data.folds={config.data.folds}: a sweep does not cross-validate; set it to 0")
    if together < 1:
        raise ValueError(f"together={together} must be at least 1 (1: one k after another)")
    if together > 1 and config.evaluation.weights == "best":
        raise ValueError(
            "evaluation.weights='best' needs the checkpoints of each k: use together=1, or weights='last'"
        )
    if together > 1 and config.adversarial.method != "none":
        raise ValueError(
            f"adversarial.method={config.adversarial.method!r} trains each k on pictures of its own: "
            "use together=1"
        )
    if (processes := max(jax.process_count(), started_tasks())) > 1:
        raise ValueError(f"a sweep runs in one process; there are {processes}")


def member_config(config: ml_collections.FrozenConfigDict, k: int, seed: int) -> Any:
    """The configuration of one member: the sweep's with this k and seed, and no twin."""
    model = config.model.to_dict() | {"k": k}
    return _with(config, title=f"{config.title}, k={k}", seed=seed, model=model, twin={})


def member(plan: Sweep, k: int, seed: int) -> Run:
    """The run of one member."""
    return _rebuilt(plan.run, member_config(plan.config, k, seed), plan.workdir / _name(plan, k, seed))


def _rebuilt(run: Run, config: ml_collections.FrozenConfigDict, directory: Path) -> Run:
    """A run on the same data with a network of its own."""
    known = dict(run.model.settings)
    model = create_model(
        num_classes=known["num_classes"], in_channels=known["in_channels"], seed=config.seed, **config.model
    )
    return run._replace(config=config, directory=directory, model=model)


def is_finished(run: Run) -> bool:
    """Whether a run is evaluated; without a test split, whether it is trained."""
    last = "evaluation.json" if test_names(run.config.data) else "model.safetensors"
    return (run.directory / last).exists()


def _train_singly(runs: Sequence[Run], report: Report, after_run: AfterRun) -> dict[str, str]:
    """One after another, with the programs of the first; folder and reason of those that diverged."""
    programs: Programs | None = None
    diverged: dict[str, str] = {}
    for run in _unfinished(runs, report, after_run):
        report(f"{run.directory.name}: training")
        own = make_programs(run)
        programs = programs or own
        try:
            with writing(run.directory):
                _finish(run, train(run, programs._replace(state=own.state)))
        except FloatingPointError as error:
            report(f"{run.directory.name}: {error}")
            diverged[run.directory.name] = str(error)
            continue
        after_run(run.directory)
    return diverged


def _train_group(plan: Sweep, runs: Sequence[Run], report: Report, after_run: AfterRun) -> None:
    """All as one program, then the evaluation of those that still wait for it."""
    waiting = _unfinished(runs, report, after_run)
    if not waiting:
        return
    group, names = group_of(plan, runs), [run.directory.name for run in runs]
    report(f"{', '.join(names)}: training together")
    with writing(group.directory):
        states = dict(zip(names, train_together(group, runs), strict=True))
    eval_step = make_programs(group).eval_step
    for run in waiting:
        with writing(run.directory):
            write_metrics(group, run, len(runs))
            with TrainingLog(run.directory, run.config, run.steps, run.steps, run.steps_per_epoch) as log:
                validate(run, eval_step, states[run.directory.name], log)
            _finish(run, states[run.directory.name])
        after_run(run.directory)


def _unfinished(runs: Sequence[Run], report: Report, after_run: AfterRun) -> list[Run]:
    for run in filter(is_finished, runs):
        report(f"{run.directory.name}: finished before")
        after_run(run.directory)
    return [run for run in runs if not is_finished(run)]


def group_of(plan: Sweep, runs: Sequence[Run]) -> Run:
    """A run like these of one seed, with the title of their group and a folder that says what is stacked."""
    ks = [run.config.model.k for run in runs]
    stacked = ks + ks[-1:] * idle_devices(runs)
    seed = f",seed={runs[0].config.seed}" if plan.seeds else ""
    config = _with(runs[0].config, title=f"{plan.config.title}, k={_listed(ks)}{seed}")
    directory = plan.workdir / "together" / f"k={_listed(stacked)}{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    return runs[0]._replace(config=config, directory=directory)


def _listed(ks: Sequence[int]) -> str:
    return ",".join(map(str, ks))


def _finish(run: Run, state: TrainState) -> None:
    export(run, state)
    evaluate_run(run.config, run.directory, run.mesh, run.model, state, run.sources)


def write_summary(plan: Sweep, diverged: Mapping[str, str]) -> Path:
    """Writes `sweep.json`: every figure of every k, and the k that the validation chooses.

    A k with a run that `diverged` is left out.

    Raises:
      FloatingPointError: there is no other.
    """
    seeds = plan.seeds or (plan.config.seed,)
    height, width = plan.cam_shape
    finished = [k for k in plan.ks if not {_name(plan, k, seed) for seed in seeds} & diverged.keys()]
    if not finished:
        raise FloatingPointError(f"every k diverged: {'; '.join(map(': '.join, diverged.items()))}")
    rows = [
        {"k": k, "share": k / (height * width)}
        | run_figures([plan.workdir / _name(plan, k, seed) for seed in seeds], plan.config)
        for k in finished
    ]
    validation = plan.config.data.validation
    chosen = choose(rows, validation)
    for row, below in zip(rows, compare_with(chosen, rows, validation), strict=True):
        row["below_chosen"] = below
    twin = None
    if plan.twins:
        title = plan.twins[0].config.title
        twin = {"title": title} | run_figures([run.directory for run in plan.twins], plan.twins[0].config)
    summary = {
        "title": plan.config.title,
        **identity(plan.config),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "source": plan.config.data.source,
        "validation": validation,
        "seeds": list(seeds),
        "cam_shape": [height, width],
        "epochs": plan.config.train.epochs,
        "together": sorted(path.name for path in (plan.workdir / "together").glob("*")),
        "sd": "sample standard deviation over the seeds (divisor: seeds - 1)",
        "rule": RULE,
        "chosen": chosen,
        "diverged": dict(diverged),
        "rows": rows,
        "twin": twin,
    }
    path = plan.workdir / "sweep.json"
    write_json(path, summary)
    return path


def _claim(plan: Sweep) -> None:
    """Makes the folders and writes what belongs to them, or checks that they belong to this sweep."""
    path = plan.workdir / "members.json"
    members = {"k": list(plan.ks), "seeds": list(plan.seeds)}
    if (plan.workdir / "config.json").exists() and not path.exists():
        raise ValueError(f"workdir {str(plan.workdir)!r} holds another run: choose another one for the sweep")
    claim(plan.workdir, plan.config)
    if not path.exists():
        write_json(path, members)
    before = json.loads(path.read_text())
    if other := [
        f"{name} {members[name]}, not {before[name]}" for name in members if members[name] != before[name]
    ]:
        raise ValueError(
            f"workdir {str(plan.workdir)!r} holds another sweep ({'; '.join(other)}), and k is chosen once: "
            "choose another workdir, or the same values to go on"
        )
    for seed in plan.seeds or (plan.config.seed,):
        for k in plan.ks:
            claim(plan.workdir / _name(plan, k, seed), member_config(plan.config, k, seed))
    for twin in plan.twins:
        claim(twin.directory, twin.config)


def _name(plan: Sweep, k: int, seed: int) -> str:
    return f"k={k},seed={seed}" if plan.seeds else f"k={k}"


def _with(config: ml_collections.FrozenConfigDict, **changes: Any) -> ml_collections.FrozenConfigDict:
    return resolve(config.to_dict() | changes)
