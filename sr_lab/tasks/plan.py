"""``task=plan``: what a training run, a sweep or a paper's table will need; it trains and writes nothing."""

import csv
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from sr_lab.config import identity
from sr_lab.config.overrides import key_of
from sr_lab.config.schema import PlanConfig
from sr_lab.datasets import registry
from sr_lab.datasets.patches import PatchDataset
from sr_lab.errors import ConfigError, DataError
from sr_lab.files import conf_dir
from sr_lab.help import data, layout, option
from sr_lab.reporting.progress import Progress
from sr_lab.reporting.terminal import Terminal
from sr_lab.run_folder import RunFolder
from sr_lab.runs import measurement
from sr_lab.runs.planned_run import IMAGE, Job, picture_bytes
from sr_lab.system import unix
from sr_lab.system.devices import check_gpu, check_precision
from sr_lab.training import build, cost
from sr_lab.training.cost import Cost

console = Terminal(markup=False, highlight=False, soft_wrap=True)
_PROGRAM = 2**29  # bytes of this program without a network, on systems that do not report it
_CHECKPOINTS = 3  # last, previous, best


def run(
    configs: Sequence[PlanConfig], overrides: Sequence[str] = (), choices: Mapping[str, str] | None = None
) -> None:
    """Print the plan of the jobs of one command line.

    Args:
        configs: The configuration of each job.
        overrides: The overrides of the first job.
        choices: The chosen option of each group.

    Raises:
        ConfigError: The experiment trains nothing, or a network cannot be trained as configured.
    """
    first = configs[0]
    _check_experiment(overrides)
    jobs = _distinct([_job(config) for config in configs])
    same = len(configs) - len(jobs)
    threads = _threads(first)
    with _using(threads):
        _add_costs(jobs, measure=first.measure)
    if first.format != "table":
        _print_as(first.format, jobs)
        return
    lines = _headline(jobs, same)
    lines += ["", *_table(jobs), "", *_measurement(jobs, first)]
    needs, obstacles = _needs(jobs, _prepare(overrides, choices or {}))
    lines += ["", *layout.pairs(needs, indent=0, column=8), ""]
    ready = "Nothing is missing: the same command without task=plan starts the training."
    for sentence in obstacles or [ready]:
        lines += layout.wrapped(sentence)
    for line in lines:
        console.print(line)


def _check_experiment(overrides: Sequence[str]) -> None:
    name = next((each.partition("=")[2] for each in overrides if key_of(each) == "experiment"), "")
    found = option.find([conf_dir()], "experiment", name)
    for group, task, _ in found.chosen if found else ():
        if group == "task" and task != "train":
            raise ConfigError(
                f"task: experiment={name} trains nothing, so there is nothing to plan; leave task=plan out "
                f"to run its own task={task}"
            )


def _job(config: PlanConfig) -> Job:
    try:
        complete = measurement.with_measured_identity(config, ()) if config.validation.sets else config
        assert isinstance(complete, PlanConfig)
        folder = RunFolder(identity.planned_folder(complete))
    except DataError:
        return Job(config, copies=_trials(config))
    if config.hparams_search is not None:  # the trials have folders of their own
        ended = sum(RunFolder(path.parent).is_finished() for path in folder.path.glob("*/metrics.json"))
        left = _trials(config) - ended
        return Job(config, folder.path, "waiting" if left > 0 else "finished", copies=max(0, left))
    state, done = folder.state(), 0
    if state != "waiting" and config.resume != "never":
        text = folder.progress().get("step", "0")
        done = min(int(text), config.steps) if text.isdecimal() else 0
    return Job(config, folder.path, state, done)


def _trials(config: PlanConfig) -> int:
    return config.hparams_search.trials if config.hparams_search is not None else 1


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """Each run once; several rows of a table may be the same run."""
    found: dict[str, Job] = {}
    for job in jobs:
        own = job.config.model_dump_json(exclude={"run_name", "row_label", "table"})
        found.setdefault(str(job.folder or own), job)
    return list(found.values())


def _threads(config: PlanConfig) -> int:
    """The number of threads that `sweep.Queue` gives to one job."""
    threads, jobs = torch.get_num_threads(), config.sweep.jobs
    return threads if jobs == 1 or "OMP_NUM_THREADS" in os.environ else max(1, threads // jobs)


@contextmanager
def _using(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _add_costs(jobs: Sequence[Job], *, measure: bool) -> None:
    """Measure each distinct network once, with a progress bar on a terminal."""
    wanted: dict[str, list[Job]] = {}
    for job in jobs:
        if not job.finished:
            wanted.setdefault(cost.key(job.config), []).append(job)
    if wanted and measure:
        trainer = jobs[0].config.trainer
        check_gpu(trainer.accelerator, trainer.devices)
        check_precision(trainer.precision, trainer.accelerator)
    with Progress(len(wanted), "networks measured" if measure else "networks counted", transient=True) as bar:
        for number, alike in enumerate(wanted.values()):
            config = alike[0].config
            bar.update(number, str(config.run_name))
            found = cost.measure(config) if measure else Cost(cost.count(config))
            for job in alike:
                job.cost = found


def _headline(jobs: Sequence[Job], same: int) -> list[str]:
    states = Counter("finished" if job.finished else job.state for job in jobs)
    parts = [f"{states[state]} {state}" for state in states]
    config = jobs[0].config
    words = f"{config.experiment_name}: {len(jobs)} job{'s' if len(jobs) > 1 else ''} ({', '.join(parts)})"
    if same:
        words += f", {_number(same, 'more row')} {'repeats' if same == 1 else 'repeat'} one of these runs"
    if any(job.folder is None for job in jobs):
        words += "; it is not known which are finished, since the images that identify a run are missing"
    lines = layout.wrapped(words, hanging=2)
    if config.hparams_search is not None:
        lines += layout.wrapped(
            f"A search of up to {_trials(config)} trials of up to {config.steps:,} steps each. Every trial "
            "is assumed to cost as much as the network configured here; pruned trials take less time."
        )
    budget = f"Budget {config.budget.name.partition(' ')[0]}"
    if config.budget.name.endswith("(auto)"):
        budget += f", chosen for a {'GPU' if build.on_gpu(config) else 'CPU'}, as in training"
    if config.recipe:
        names = {"lr_patch_size": "LR patch size", "batch_size": "batch size"}
        now = {"batch_size": config.batch_size, "lr_patch_size": cost.patch_size(config)}
        now |= {"steps": config.steps}
        changes = [
            f"{names.get(name, name)} {recipe:,} -> {now[name]:,}"
            for name, recipe in config.recipe.items()
            if name in now
        ]
        budget += f" ({', '.join(changes)}); budget=paper plans the paper's recipe"
    return [*lines, *layout.wrapped(f"{budget}.")]


_TITLES = ("job", "state", "steps", "s/step", "hours", "RAM", "disk")


def _table(jobs: Sequence[Job]) -> list[str]:
    on_gpu = build.on_gpu(jobs[0].config)
    counted = not jobs[0].config.measure
    titles = ["job", "state", "steps", "T/step"] if counted else list(_TITLES)
    if on_gpu and not counted:
        titles[5] = "GPU RAM"
    rows = [titles, *(_cells(job, counted=counted) for job in jobs)]
    total = ["total", f"{sum(not job.finished for job in jobs)} left", f"{sum(job.left for job in jobs):,}"]
    if counted:
        total.append("")
    else:
        kept = sum(_checkpoint_bytes(job) for job in jobs)
        total += ["", _hours(sum(job.hours for job in jobs)), "", _bytes(kept)]
    rows.append(total)
    others = sum(2 + max(map(len, column)) for column in list(zip(*rows, strict=True))[1:])
    room = max(20, layout.WIDTH - 2 - others)  # no column has to give way to long names
    return layout.columns([[_shortened(name, room), *cells] for name, *cells in rows])


def _cells(job: Job, *, counted: bool) -> list[str]:
    name = job.config.run_name if job.copies == 1 else f"{job.config.run_name} x {job.copies}"
    cells = [
        name,
        "finished" if job.finished else job.state,
        f"{job.left:,}" if job.left else "-",
    ]
    if job.cost is None:
        return [*cells, *("-" for _ in range(1 if counted else 4))]
    if counted:
        return [*cells, f"{job.cost.multi_adds / 1e12:.3g}"]
    if not job.cost.fits:
        return [*cells, "-", "-", "too much", "-"]
    seconds = job.cost.seconds
    rest = [_hours(job.hours), _bytes(job.cost.memory), _bytes(_checkpoint_bytes(job))]
    return [*cells, f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}", *rest]


def _shortened(name: str, room: int) -> str:
    """A name without its middle if it is too long, since its end is more informative."""
    room = min(room, 28)
    return name if len(name) <= room else f"{name[:7]}..{name[9 - room :]}"


def _checkpoint_bytes(job: Job) -> int:
    return 0 if job.cost is None else _CHECKPOINTS * job.copies * job.cost.checkpoint


def _measurement(jobs: Sequence[Job], config: PlanConfig) -> list[str]:
    """How the estimates were made."""
    costs = list({id(job.cost): job.cost for job in jobs if job.cost is not None}.values())
    if not costs:
        return layout.wrapped("Every job is finished, so nothing was measured.")
    if not config.measure:
        return layout.wrapped(
            "T/step: 10^12 multiply-adds of an optimizer step, three times those of a forward pass of the "
            "batch. Nothing was timed (measure=false)."
        )
    timed = [each for each in costs if each.fits]
    text = f"Measured now on {cost.where(config)}: "
    text += f"{_range(each.steps for each in timed)} steps of {_number(len(timed), 'network')}"
    if parts := [each for each in timed if each.samples < each.batch]:
        text += (
            f", {'all' if len(parts) == len(timed) else len(parts)} of them on part of the batch "
            f"({_range(each.samples for each in parts)} of {_range(each.batch for each in parts)} samples)"
        )
    text += (
        ". Hours include validations and tests, estimated from one forward pass, but no waiting for data or "
        "for other devices; other programs that run now make the estimates longer. RAM is for the network in "
        "training; disk is for the checkpoints."
    )
    lines = layout.wrapped(text)
    hours, slots = _wall(jobs)
    if config.sweep.jobs > 1:
        how = f"{_number(slots, 'job')} at once (sweep.jobs={config.sweep.jobs}), each measured alone"
        if not build.on_gpu(config):
            how += f" with {_number(_threads(config), 'thread')}"
        lines += layout.wrapped(f"Wall time: {_hours(hours)} hours with {how}.")
    return lines


def _wall(jobs: Sequence[Job]) -> tuple[float, int]:
    """Hours until the last job ends if the jobs start in order, and how many run at once."""
    slots = jobs[0].config.sweep.jobs
    if build.on_gpu(jobs[0].config):
        slots = min(slots, max(1, torch.cuda.device_count()))  # jobs on one GPU share its time
    ends = [0.0] * slots
    for job in jobs:
        for _ in range(job.copies):
            first = min(range(slots), key=ends.__getitem__)
            ends[first] += job.hours / job.copies
    return max(ends), slots


def _needs(jobs: Sequence[Job], prepare: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Rows about data, disk and memory, and one sentence for each problem."""
    left = [job for job in jobs if not job.finished]
    rows, obstacles = _data(left, prepare)
    config = jobs[0].config
    kept = sum(map(_checkpoint_bytes, left))
    pictures = sum(job.copies * picture_bytes(job.config) for job in left)
    places: dict[Path, int] = {}
    cache, output = Path(config.paths.cache_dir).expanduser(), Path(config.paths.output_dir).expanduser()
    prepared, exact = _to_prepare(left)
    places[_existing(cache)] = prepared
    places[_existing(output)] = places.get(_existing(output), 0) + kept + pictures
    text = f"checkpoints {_bytes(kept)}, " if config.measure else ""
    text += f"example images at most {_bytes(pictures)} in {config.paths.output_dir}; "
    about = "" if exact else "about "
    text += f"prepared images {about}{_bytes(prepared)} in {config.paths.cache_dir}"
    rows.append(("Disk", text))
    for place, size in places.items():
        free = shutil.disk_usage(place).free
        if size > free:
            obstacles.append(
                f"Disk: {place} has {_bytes(free)} free, and {_bytes(size)} are needed; free some, or set "
                "paths.cache_dir or paths.output_dir."
            )
    if memory := max((job.cost.memory for job in left if job.cost is not None), default=0):
        rows.append(("Memory", _memory(config, memory, obstacles)))
    if tight := [job.config.run_name for job in left if job.cost is not None and not job.cost.fits]:
        obstacles.append(
            f"Memory: a batch of {', '.join(tight)} does not fit into the GPU's memory; "
            "trainer.accumulate_grad_batches=2 processes the batch in two halves."
        )
    if failed := [job.config.run_name for job in jobs if job.state == "failed"]:
        obstacles.append(
            f"{', '.join(failed)} failed last time; sweep.retry_failed=true makes a sweep run "
            "failed jobs again."
        )
    return rows, obstacles


def _data(jobs: Sequence[Job], prepare: str) -> tuple[list[tuple[str, str]], list[str]]:
    folders: dict[str, None] = {}
    for job in jobs:
        config, data_dir = job.config, Path(job.config.paths.data_dir).expanduser()
        sets = [*config.benchmark.sets, *config.validation.sets]
        folders |= dict.fromkeys([*data.training(config.dataset), *data.testing(sets, data_dir)])
    if not folders:
        return [("Data", "nothing to download: the images come with scikit-image")], []
    missing = data.missing(list(folders))
    data_dir = Path(jobs[0].config.paths.data_dir).expanduser()
    there = len(folders) - len(missing)
    rows = [("Data", f"{there} of {len(folders)} folders exist; {data_dir} is paths.data_dir")]
    if not missing:
        return rows, []
    obstacles = [f"Data: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."]
    known = [each for each in registry.named(missing, data_dir) if each.archives]
    if known:
        archives = {each.archives[0] for each in known}
        size = sum(archive.size or 0 for archive in archives)
        more = " and archives of unknown size" if size else ", archives of unknown size"
        more = "" if all(archive.size for archive in archives) else more
        named = f": {_bytes(size) if size else ''}{more}".replace(": ,", ":")
        obstacles.append(f"`{prepare}` downloads {', '.join(each.name for each in known)}{named}.")
    return rows, [*obstacles, *data.by_hand(missing, data_dir)]


def _prepare(overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    """The command that downloads what these jobs read."""
    chosen = [f"{group}={choices[group]}" for group in ("dataset", "benchmark") if group in choices]
    typed = [shlex.quote(each) for each in overrides if key_of(each) == "paths.data_dir"]
    return " ".join(["python -m sr_lab task=prepare", *chosen, *typed])


def _to_prepare(jobs: Sequence[Job]) -> tuple[int, bool]:
    """Bytes of decoded training images that are still to be written, and whether the number is exact."""
    exact, total = True, 0
    sets: dict[str, PlanConfig] = {}
    for job in jobs:
        dataset = {key: job.config.dataset.get(key) for key in ("_target_", "hr_dir", "lr_dir")}
        sets.setdefault(str([dataset, job.config.degradation, job.config.scale]), job.config)
    decoded: set[str] = set()  # HR images are shared by all scales
    for config in sets.values():
        hr = str(config.dataset.get("hr_dir"))
        try:
            dataset = identity.training_set(config)
            size = dataset.bytes_to_prepare() if isinstance(dataset, PatchDataset) else 0
            if hr in decoded:
                size //= config.scale**2 + 1  # the LR images
        except DataError:
            exact = False
            known = registry.named(data.training(config.dataset), Path(config.paths.data_dir).expanduser())
            count = sum(each.count for each in known if "validation" not in each.name)
            size = 3 * IMAGE * count // config.scale**2
            size += 0 if hr in decoded else 3 * IMAGE * count
        decoded.add(hr)
        total += size
    return total, exact


def _memory(config: PlanConfig, memory: int, obstacles: list[str]) -> str:
    """How much memory the largest job needs, and how much the machine has."""
    if build.on_gpu(config):
        on_gpu = torch.cuda.get_device_properties(build.device(config)).total_memory
        return f"up to {_bytes(memory)} of the GPU's {_bytes(on_gpu)}"
    jobs, program = config.sweep.jobs, unix.resident() or _PROGRAM
    need, has = jobs * (memory + program), unix.memory()
    if has is not None and need > has:
        fewer = "fewer sweep.jobs, " if jobs > 1 else ""
        obstacles.append(
            f"Memory: the largest job needs about {_bytes(need)}, and the machine has {_bytes(has)}; use "
            f"{fewer}trainer.accumulate_grad_batches or a smaller batch_size."
        )
    at_once = f" for {jobs} jobs at once" if jobs > 1 else ""
    of_all = "; this system does not report how much it has" if has is None else f", of {_bytes(has)}"
    return f"about {_bytes(need)}{at_once}, including the program{of_all}"


def _existing(place: Path) -> Path:
    """The nearest folder that exists."""
    place = place.absolute()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _print_as(form: str, jobs: Sequence[Job]) -> None:
    """One line per job, for other programs and documents."""
    rows = [_plain(job) for job in jobs]
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    titles = list(rows[0])
    lines = [titles, ["---"] * len(titles), *([str(row[title]) for title in titles] for row in rows)]
    for line in lines:
        console.print(f"| {' | '.join(line)} |")


def _plain(job: Job) -> Mapping[str, object]:
    config, found = job.config, job.cost
    row: dict[str, object] = {
        "job": config.run_name,
        "state": job.state,
        "steps_left": job.left,
        "steps": config.steps,
        "batch_size": config.batch_size,
        "lr_patch_size": cost.patch_size(config),
        "multi_adds_per_step": "" if found is None else found.multi_adds,
    }
    if config.measure:
        known = found is not None and found.fits
        row |= {
            "device": cost.where(config),
            "seconds_per_step": f"{found.seconds:.6g}" if found is not None and known else "",
            "hours_left": f"{job.hours:.6g}" if known or job.finished else "",
            "memory_bytes": found.memory if found is not None and known else "",
            "checkpoint_bytes": found.checkpoint if found is not None and known else "",
            "measured_steps": found.steps if found is not None and known else "",
            "measured_samples": found.samples if found is not None and known else "",
        }
    return row


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return "no" if not found else f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _hours(hours: float) -> str:
    if 0 < hours < 0.01:
        return "<0.01"
    return f"{hours:,.{0 if hours >= 10 else 1 if hours >= 1 else 2}f}"


def _bytes(size: float) -> str:
    for unit in ("B", "KB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
