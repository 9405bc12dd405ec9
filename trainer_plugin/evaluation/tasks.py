"""lm-eval's tasks on base and adapters, question by question.

A task is a name that lm-eval knows, or a YAML file in its form. Such a file can run code (`!function`,
foreign metrics, Jinja): without `trusted` only keys that describe data are taken, and templates run in
Jinja's sandbox.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partialmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tokpack.errors import DataError, UsageError, near_matches
from tokpack.terminal.activity import Activity
from trainer_plugin.adapters.loaded import AdaptedModel
from trainer_plugin.evaluation.statistics import Interval, PairedShare, ratio, share

FILES = (".yaml", ".yml")
PLAIN_KEYS = {
    *("task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "metadata"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "num_fewshot", "fewshot_config"),
    *("doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "gen_prefix"),
    *("fewshot_delimiter", "metric_list", "output_type", "generation_kwargs", "repeats", "filter_list"),
    *("should_decontaminate", "doc_to_decontamination_query"),
}
"""Keys of a task file that describe data and prompts, and run nothing."""
LOCAL = ("json", "csv", "parquet", "arrow", "text")
"""Values of `dataset_path` whose `data_files` are files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSettings:
    """limit: the first so many questions of each task; 0: all."""

    limit: int = 0
    num_fewshot: int | None = None
    chat_template: bool = False
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class EvalTask:
    """A task as it is named here, and what lm-eval takes for it."""

    name: str
    spec: str | dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskComparison:
    """One metric of one task, adapter against base on the same questions.

    Right and wrong: Newcombe's interval and McNemar's exact p; other values: the bootstrap over questions.
    Perplexities are compared as loss per unit, in nats.
    """

    adapter: str
    task: str
    metric: str
    filter: str
    questions: int
    limit: int
    higher_is_better: bool
    primary: bool
    """Whether a gate that names the task alone means this one."""
    base: Interval
    value: Interval
    difference: Interval
    p_value: float | None = None
    only_base: int | None = None
    """Questions that the base alone got right."""
    only_adapter: int | None = None


def need_lm_eval() -> None:
    """Raise UsageError where lm-eval is not installed."""
    if find_spec("lm_eval") is None:
        raise UsageError("lm_eval is not installed", where="--tasks", hint='pip install "tokpack[eval]"')


def read_tasks(names: Sequence[str], trusted: bool = False) -> list[EvalTask]:
    """Tasks by name or file. Raises UsageError for an unknown name, and for a file that would run code."""
    return [
        _from_file(Path(name), trusted) if name.endswith(FILES) else EvalTask(name, name) for name in names
    ]


def _from_file(path: Path, trusted: bool) -> EvalTask:
    config = _plain_yaml(path)
    name = config.get("task")
    if not isinstance(name, str) or not name:
        raise UsageError("the task has no name", where=f"{path}: task", hint="task: NAME")
    if trusted:
        return EvalTask(name, str(path))
    unsafe = [key for key in config if key not in PLAIN_KEYS] + list(_functions(config))
    metrics = [one.get("metric") for one in _tables(config.get("metric_list")) if isinstance(one, dict)]
    unsafe += [f"metric {metric}" for metric in metrics if not _known_metric(metric)]
    if unsafe:
        raise UsageError(
            f"the task file asks for what can run code: {', '.join(map(str, unsafe[:5]))}",
            where=str(path),
            hint="read it, and what it names; then --trust-tasks",
        )
    return EvalTask(name, _with_files(config, path.parent))


class _Function(str):
    """A value that names code."""


def _plain_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Tags become marks, and nothing is imported."""

    Loader.add_multi_constructor("!", lambda _loader, suffix, node: _Function(f"!{suffix} {node.value}"))
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise UsageError(
            f"no such task file: {error.strerror}", where=str(path), hint="a .yaml file"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"not YAML: {why}", where=str(path), hint="mend it there") from None
    if not isinstance(found, dict):
        raise UsageError("no task: the file holds no table", where=str(path), hint="as lm-eval's task files")
    return found


def _functions(value: Any) -> Iterator[str]:
    if isinstance(value, _Function):
        yield value
    elif isinstance(value, dict):
        for one in (*value.keys(), *value.values()):
            yield from _functions(one)
    elif isinstance(value, list):
        for one in value:
            yield from _functions(one)


def _tables(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _known_metric(name: Any) -> bool:
    """Others lm-eval would load from the Hub, with their code."""
    import lm_eval.api.metrics  # noqa: F401 - registers them
    from lm_eval.api.registry import METRIC_REGISTRY

    return name in METRIC_REGISTRY


def _with_files(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths of data are meant beside the task file."""
    kwargs = config.get("dataset_kwargs") or {}
    files = kwargs.get("data_files")
    if config.get("dataset_path") not in LOCAL or files is None:
        return config
    return {**config, "dataset_kwargs": {**kwargs, "data_files": _beside(files, folder)}}


def _beside(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {key: _beside(one, folder) for key, one in files.items()}
    if isinstance(files, list):
        return [_beside(one, folder) for one in files]
    beside = folder / str(files)
    return str(beside) if beside.exists() else files


def run_tasks(
    loaded: AdaptedModel, tasks: Sequence[EvalTask], settings: TaskSettings, tell: Activity
) -> list[TaskComparison]:
    """Every task by base and adapters, compared. Raises UsageError for a task that does not run."""
    from trainer_plugin.evaluation.lm import TokpackLM

    model = TokpackLM(loaded.network, tokenizer=loaded.tokenizer, batch_size=1, tell=tell)
    found: list[TaskComparison] = []
    for task in tasks:
        _manager(task)
    for task in tasks:
        samples: dict[str | None, Samples] = {}
        for name in (None, *loaded.adapters):
            tell.say(f"task {task.name}: {f'adapter {name}' if name else 'base'}")
            with loaded.using(name) as network:
                model._model = network
                samples[name] = _run(model, task, settings)
        for name in loaded.adapters:
            found += compare_samples(task.name, name, samples[None], samples[name], settings.limit)
    return found


def _manager(task: EvalTask) -> Any:
    """lm-eval's index of tasks, which takes seconds to make: empty for a file. Raises UsageError for a name
    that is not in it."""
    if isinstance(task.spec, dict) or task.spec.endswith(FILES):
        return _index(False)
    manager = _index(True)
    if task.spec not in manager.all_tasks:
        alike = [name for name in manager.all_tasks if name[:3] == task.spec[:3]]
        raise UsageError(
            f"lm-eval knows no task {task.spec!r}",
            where="--tasks",
            hint=near_matches(task.spec, alike)[:200] if alike else "`lm-eval ls tasks` lists them",
        )
    return manager


@cache
def _index(built_in: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=built_in)


@dataclass(frozen=True, slots=True)
class Samples:
    """What lm-eval logged: leaf task -> its samples, whether more is better, and the metrics in order."""

    by_task: Mapping[str, list[dict[str, Any]]]
    higher_is_better: Mapping[str, bool]
    metrics: Sequence[str]


def _run(model: Any, task: EvalTask, settings: TaskSettings) -> Samples:
    from lm_eval import simple_evaluate

    with _quiet(), _sandbox(settings.trusted):
        manager = _manager(task)
        try:
            results = simple_evaluate(
                model,
                tasks=[task.spec],
                task_manager=manager,
                limit=settings.limit or None,
                num_fewshot=settings.num_fewshot,
                apply_chat_template=settings.chat_template,
                bootstrap_iters=0,
                confirm_run_unsafe_code=settings.trusted,
            )
        except (OSError, ValueError, KeyError, ConnectionError, ImportError) as error:
            raise UsageError(
                f"the task {task.name!r} does not run: {type(error).__name__}: {str(error)[:300]}",
                where="--tasks",
                hint="data sets of named tasks come from the Hub; a task file names its own",
            ) from None
    assert results is not None
    better: dict[str, bool] = {}
    order: dict[str, None] = {}
    for name in results["samples"]:
        better |= {key: bool(value) for key, value in results["higher_is_better"].get(name, {}).items()}
        listed = results["configs"][name].get("metric_list") or []
        order |= dict.fromkeys(one["metric"] for one in listed if isinstance(one, dict))
    return Samples(results["samples"], better, list(order))


def compare_samples(
    task: str, adapter: str, base: Samples, ours: Samples, limit: int
) -> list[TaskComparison]:
    """One comparison a metric and filter, all leaf tasks of a group together.

    Raises DataError where the questions are not the same.
    """
    pairs: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for leaf, mine in base.by_task.items():
        others = {(one["doc_id"], one["filter"]): one for one in ours.by_task.get(leaf, [])}
        if len(others) != len(mine):
            raise _other_questions(leaf)
        for one in mine:
            other = others.get((one["doc_id"], one["filter"]))
            if (
                other is None
                or one["doc_hash"] != other["doc_hash"]
                or one["prompt_hash"] != other["prompt_hash"]
            ):
                raise _other_questions(leaf)
            for metric in one["metrics"]:
                pairs.setdefault((metric, one["filter"]), []).append((one[metric], other[metric]))
    listed = [key for metric in base.metrics for key in pairs if key[0] == metric]
    order = [*dict.fromkeys(listed), *(key for key in pairs if key not in listed)]
    compared: list[TaskComparison] = []
    for metric, kind in order:
        values = _numbers(pairs[metric, kind])
        if values is None:
            continue
        figures = _compare_values(*values)
        higher = base.higher_is_better.get(metric, True) and "perplexity" not in metric
        compared.append(
            TaskComparison(
                adapter=adapter,
                task=task,
                metric=metric,
                filter=kind,
                questions=len(pairs[metric, kind]),
                limit=limit,
                higher_is_better=higher and not metric.startswith("bits_per"),
                primary=not compared,
                **figures,
            )
        )
    return compared


def _other_questions(task: str) -> DataError:
    return DataError(
        f"base and adapter did not get the same questions of {task}",
        where="--tasks",
        hint="a task that draws its prompts at random cannot be compared question by question",
    )


Numbers = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _numbers(pairs: Sequence[tuple[Any, Any]]) -> Numbers | None:
    """Values of base and adapter, float64[Q], and weights of sums; None for what is no number."""
    first = pairs[0][0]
    try:
        if isinstance(first, (tuple, list)) and len(first) == 2:  # perplexities: log-likelihood, units
            both = np.array([[base, ours] for base, ours in pairs], np.float64)
            return -both[:, 0, 0], -both[:, 1, 0], both[:, 0, 1]
        base, ours = np.array(pairs, np.float64).T
    except (TypeError, ValueError):
        return None
    return base, ours, None


def _compare_values(base: np.ndarray, ours: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    questions = np.arange(len(base))
    if weights is None and np.isin(base, (0, 1)).all() and np.isin(ours, (0, 1)).all():
        table = PairedShare(
            both=int((base * ours).sum()),
            only_base=int((base * (1 - ours)).sum()),
            only_adapter=int((ours * (1 - base)).sum()),
            neither=int(((1 - base) * (1 - ours)).sum()),
        )
        return {
            "base": share(int(base.sum()), len(base)),
            "value": share(int(ours.sum()), len(ours)),
            "difference": table.difference,
            "p_value": table.p_value,
            "only_base": table.only_base,
            "only_adapter": table.only_adapter,
        }
    below = np.ones(len(base)) if weights is None else weights
    return {
        "base": ratio(base, below, questions),
        "value": ratio(ours, below, questions),
        "difference": ratio(ours - base, below, questions),
    }


@contextmanager
def _sandbox(trusted: bool) -> Iterator[None]:
    """Templates of task files that nobody vouched for can read their question, and call nothing."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    before = utils.env
    if not trusted:
        closed = SandboxedEnvironment(
            loader=before.loader,
            undefined=before.undefined,
            keep_trailing_newline=before.keep_trailing_newline,
        )
        closed.filters.update(before.filters)
        utils.env = closed
    try:
        yield
    finally:
        utils.env = before


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's notes and bars would drown our own lines; its errors still show. And it would ask pip for
    all packages at every call, which takes seconds."""
    from lm_eval import evaluator
    from tqdm import tqdm

    log = logging.getLogger("lm_eval")
    before = log.level, tqdm.__init__, evaluator.add_env_info
    log.setLevel(logging.ERROR)
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    evaluator.add_env_info = lambda results: None
    try:
        yield
    finally:
        log.setLevel(before[0])
        tqdm.__init__, evaluator.add_env_info = before[1:]
