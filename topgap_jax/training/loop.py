"""The training run: from a configuration and a folder to trained parameters and their evaluation."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from topgap_jax.data.augmentation.transforms import augmentation, check_augmentation
from topgap_jax.data.pipeline import train_batches
from topgap_jax.data.sources import Source
from topgap_jax.losses import L1_OF
from topgap_jax.models import Classifier, create_model, save_model
from topgap_jax.training.adversarial import check_adversarial, with_adversary
from topgap_jax.training.agreement import agree, check_shared, compare_clocks, program, started, together
from topgap_jax.training.checkpoint import Checkpoints, claim, writing
from topgap_jax.training.compilation import use_compilation_cache
from topgap_jax.training.config import ConfigError, resolve, twin_of
from topgap_jax.training.device_data import Batch, Indexed, lies_on_device, make_fetch, put_images
from topgap_jax.training.distributed import Preempted, as_first_sees, is_first, preempted, whole
from topgap_jax.training.evaluate import check_evaluation, evaluate_run, evaluate_split
from topgap_jax.training.fine_tuning import frozen_mask
from topgap_jax.training.mesh import check_batch_size, make_mesh, put_batch, state_sharding
from topgap_jax.training.metrics import TrainingLog
from topgap_jax.training.profiling import Trace
from topgap_jax.training.splits import check_agreement, load_sources, reading, test_names
from topgap_jax.training.state import TrainState, create_state, evaluated, make_optimizer, split_model
from topgap_jax.training.step import EvalStep, TrainStep, make_eval_step, make_train_step


class Run(NamedTuple):
    """Everything that a configuration stands for, checked and ready to start."""

    config: ml_collections.FrozenConfigDict
    directory: Path
    mesh: Mesh
    model: Classifier
    sources: dict[str, Source]
    steps: int
    steps_per_epoch: float


def train_and_evaluate(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Trains, evaluates and resumes what `config` describes, and its twin beside it, in `workdir/twin`.

    Started again with the same arguments after any interruption, it goes on from the last checkpoint and ends
    with the same parameters, to the bit. `workdir` then holds `config.json`, `metrics.jsonl`, `checkpoints/`,
    `model.safetensors`, `evaluation.json` and `examples.npz`.

    Args:
      config: fields of `topgap_jax.training.config.DEFAULTS`; the rest keeps its default.
      workdir: folder of the run; made if missing.

    Raises:
      ConfigError: a field, name or value that does not exist or fit, or a workdir that cannot be used, before
        any long work starts.
      FloatingPointError: the loss became infinite or NaN; the last good checkpoint stays.
      DataError: pictures could no longer be read; the last checkpoint stays.
      WriteError: the workdir can no longer be written; the last whole checkpoint stays.
    """
    try:
        runs = prepare_together(config, workdir)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(str(error)) from error
    for run in runs:
        with writing(run.directory):
            state = train(run)
            export(run, state)
            evaluate_run(run.config, run.directory, run.mesh, run.model, state, run.sources)


def prepare_together(config: Mapping[str, Any], workdir: str | Path) -> list[Run]:
    """The runs of `prepare_all`, their folders claimed; a mistake on one host is raised on all."""
    with together():
        complete = resolve(config)
        use_compilation_cache(complete.compilation_cache)
    agree(program(complete))
    with together():
        runs = prepare_all(complete, workdir)
    with together():
        if is_first():
            for run in runs:
                claim(run.directory, run.config)
    check_shared(runs[0].directory)
    agree(
        {name: started(run.directory, run.sources) for name, run in zip(("run", "twin"), runs, strict=False)}
    )
    compare_clocks()
    return runs


def prepare_all(config: Mapping[str, Any], workdir: str | Path) -> list[Run]:
    """The run of a configuration and that of its twin, with a folder each."""
    if not str(workdir):
        raise ValueError("no workdir given: name a folder for checkpoints and results, such as runs/first")
    if "://" in str(workdir):
        raise ValueError(f"workdir {str(workdir)!r} is an address: mount it, and name the folder")
    twin = twin_of(config)
    run = prepare(resolve(config), Path(workdir))
    return [run] if twin is None else [run, prepare(twin, Path(workdir) / "twin", beside=run)]


def prepare(config: ml_collections.FrozenConfigDict, directory: Path, *, beside: Run | None = None) -> Run:
    """Builds mesh, sources and model, and finds every mistake that can be found before training.

    The sources are those of `beside`, read once, if it has the same data.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    check_batch_size(mesh, "train.batch_size", config.train.batch_size)
    check_batch_size(mesh, "evaluation.batch_size", config.evaluation.batch_size)
    check_evaluation(config.evaluation)
    check_counts(config.train)
    if config.seed < 0:
        raise ValueError(f"seed={config.seed} must not be negative")
    if config.profile < 0:
        raise ValueError(f"profile={config.profile} must not be negative (0: no trace)")
    check_data(config.data)
    check_adversarial(config)
    augmentation(config.data.augment)
    if beside is not None and beside.config.data == config.data:
        sources = beside.sources
    else:
        sources = load_sources(config.data)
    source = sources[config.data.train]
    if len(source) < config.train.batch_size:
        raise ValueError(
            f"train.batch_size={config.train.batch_size} is more than the {len(source)} examples "
            f"of the split {config.data.train!r} of {config.data.source!r}"
        )
    image_shape = check_augmentation(config.data.augment, source)
    evaluated = (config.data.validation, *test_names(config.data))
    check_agreement(evaluated, sources, config.data.train, image_shape)
    lies_on_device(config.data, source)
    model = create_model(
        num_classes=source.num_classes, in_channels=image_shape[-1], seed=config.seed, **config.model
    )
    check_size_prior(model, image_shape)
    check_size_prior(model, sources[config.data.validation].image_shape or image_shape)
    check_loss(config.loss, source.num_classes)
    steps_per_epoch = len(source) / config.train.batch_size
    steps = round(config.train.epochs * steps_per_epoch)
    make_optimizer(config.optimizer, steps)
    frozen_mask(split_model(model)[1], config.optimizer.freeze)
    return Run(config, directory, mesh, model, sources, steps, steps_per_epoch)


def check_size_prior(model: Classifier, image_shape: tuple[int, ...]) -> None:
    """Raises a ValueError if k exceeds the CAM that images of this shape give."""
    _, height, width, _ = model.cam_shape(image_shape)
    k = int(model.k[...])
    if model.pool == "topk" and k > height * width:
        raise ValueError(
            f"k={k} is larger than the CAM: images of {image_shape[0]}x{image_shape[1]} give "
            f"{height}x{width} = {height * width} positions with this model"
        )


def check_counts(config: Any) -> None:
    """Raises a ValueError for a count in `config` (the field `train`) below 1."""
    for name, value in config.items():
        if value < 1:
            raise ValueError(f"train.{name}={value} must be at least 1")


def check_data(config: Any) -> None:
    """Raises a ValueError for a number in `config` (the field `data`) below 0."""
    for name in ("mixup", "cutmix", "workers"):
        if not config[name] >= 0:
            raise ValueError(f"data.{name}={config[name]} must not be negative (0: none)")


def check_loss(config: Any, num_classes: int) -> None:
    """Raises a ValueError if `config` (the field `loss`) does not fit the classes."""
    if config.l1 < 0:
        raise ValueError(f"loss.l1={config.l1} must not be negative")
    if config.l1_of not in L1_OF:
        raise ValueError(f"unknown loss.l1_of {config.l1_of!r}; there are: {', '.join(L1_OF)}")
    if config.logit_squeezing < 0:
        raise ValueError(f"loss.logit_squeezing={config.logit_squeezing} must not be negative")
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(f"loss.label_smoothing={config.label_smoothing} is outside [0, 1)")
    if any(not weight >= 0 for weight in config.class_weights):
        raise ValueError(f"loss.class_weights={config.class_weights} must not be negative")
    if config.class_weights and len(config.class_weights) != num_classes:
        given = len(config.class_weights)
        raise ValueError(f"loss.class_weights has {given} values for {num_classes} classes")


class Programs(NamedTuple):
    """What runs on the devices."""

    state: TrainState  # before the first step, where it belongs; the first step takes its buffers
    train_step: TrainStep
    eval_step: EvalStep


def train(run: Run, programs: Programs | None = None) -> TrainState:
    """Trains to the last step, from the newest checkpoint if there is one; the state to be evaluated."""
    config = run.config
    state, train_step, eval_step = programs or make_programs(run)
    place = make_placement(run)

    with closing(Checkpoints(run.directory)) as checkpoints:
        state = checkpoints.restore(state) or state
        start = int(state.step)
        length = (run.steps, run.steps_per_epoch)
        with (
            closing(make_batches(run, start)) as batches,
            TrainingLog(run.directory, config, start, *length) as log,
            closing(Trace(run.directory, config.profile, start)) as trace,
        ):
            if start and ends_epoch(run, start) and not checkpoints.has_accuracy(start):  # stopped before
                checkpoints.add_accuracy(start, validate(run, eval_step, state, log))
            for step in range(start + 1, run.steps + 1):
                with trace.before(step):
                    with reading(), log.timed("input"):
                        batch = next(batches)
                    with log.timed("compile" if step == start + 1 else "dispatch"):
                        state, metrics = train_step(state, place(step, batch))
                trace.after(step, metrics)
                log.add(metrics)
                evaluates, stops = ends_epoch(run, step), preempted()
                saves = stops or evaluates or step % config.train.checkpoint_every_steps == 0
                if not saves and step % config.train.log_every_steps:
                    continue
                log.flush()
                checkpoints.check()
                accuracy = None
                if evaluates and not stops:
                    try:
                        accuracy = validate(run, eval_step, state, log)
                    except Preempted:
                        stops = True
                if saves:
                    began = time.perf_counter()
                    checkpoints.save(state, accuracy)
                    log.saved(time.perf_counter() - began)
                if stops:
                    checkpoints.wait()
                    raise Preempted(f"{config.title}: stopped after step {step}, which is saved")
                log.resume_clock()
        checkpoints.wait()
        return checkpoints.restore_best(state) if config.evaluation.weights == "best" else state


def export(run: Run, state: TrainState) -> None:
    """Writes the trained network as `model.safetensors`, for `load_model`."""
    path = run.directory / "model.safetensors"
    if as_first_sees(path.exists()):
        return
    arrays = whole(run.mesh, evaluated(state))
    if is_first():
        save_model(nnx.merge(nnx.graphdef(run.model), *arrays), path)


def make_programs(run: Run) -> Programs:
    """The state before the first step and the compiled steps."""
    graphdef, params, model_state = split_model(run.model)
    optimizer = make_optimizer(run.config.optimizer, run.steps)
    state = create_state(params, model_state, optimizer, ema=run.config.optimizer.ema_decay > 0)
    # A copy: the step donates its buffers, and the model keeps its own.
    state = jax.device_put(jax.tree.map(jnp.copy, state), state_sharding(run.mesh, state))
    train_step = make_train_step(graphdef, optimizer, run.config, run.mesh, state)
    train_step = with_adversary(train_step, graphdef, run.config, run.mesh)
    return Programs(state, train_step, make_eval_step(graphdef, run.mesh, l1_of=run.config.loss.l1_of))


def make_batches(run: Run, start: int = 0) -> grain.DatasetIterator:
    """This process's batches after step `start`; where the pictures lie on the device, their indices."""
    config, source = run.config.data, run.sources[run.config.data.train]
    on_device = lies_on_device(config, source)
    return train_batches(
        Indexed(source) if on_device else source,
        batch_size=run.config.train.batch_size // jax.process_count(),
        seed=run.config.seed,
        transforms=[] if on_device else augmentation(config.augment),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=0 if on_device else config.workers,
        start=start,
    )


def make_placement(run: Run) -> Callable[[int, dict[str, np.ndarray]], Batch]:
    """`(step, batch of this process) -> global batch on the devices`."""
    config, source = run.config.data, run.sources[run.config.data.train]
    if not lies_on_device(config, source):
        return lambda step, batch: put_batch(run.mesh, batch)
    with reading():
        images = put_images(run.mesh, source)
    fetch = make_fetch(run.mesh, images, seed=run.config.seed, augment=config.augment)
    return lambda step, batch: fetch(step, put_batch(run.mesh, batch))


def ends_epoch(run: Run, step: int) -> bool:
    """Whether an epoch ends within this step, or the training."""
    return step == run.steps or int(step / run.steps_per_epoch) > int((step - 1) / run.steps_per_epoch)


def validate(run: Run, eval_step: EvalStep, state: TrainState, log: TrainingLog) -> float:
    """Measures and logs the validation split; returns its accuracy."""
    split, began = run.config.data.validation, time.perf_counter()
    result = evaluate_split(eval_step, state, run.sources[split], run.config, run.mesh)
    figures = {
        "loss": float((result["cross_entropy"] + run.config.loss.l1 * result["l1"]).mean()),
        "cross_entropy": float(result["cross_entropy"].mean()),
        "l1": float(result["l1"].mean()),
        "accuracy": float((result["prediction"] == result["label"]).mean()),
        "count": len(result["label"]),
        "seconds": time.perf_counter() - began,
    }
    log.evaluated(split, figures)
    return figures["accuracy"]
