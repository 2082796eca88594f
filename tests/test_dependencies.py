"""Behaviour of dependencies that affects results; if it changes, a failing test shows what changed."""

import ast
import math
import re
from pathlib import Path

import hydra
import kornia
import lightning
import optuna
import pytest
import torch
from hydra.errors import ConfigCompositionException
from lightning.pytorch.callbacks import EMAWeightAveraging, SpikeDetection
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn import functional as F
from torch.utils.data import DistributedSampler
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from sr_lab.config.identity import register_resolvers
from sr_lab.files import conf_dir
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.metrics import psnr, ssim
from sr_lab.system.distributed import Environment
from tests import references, tiny


def test_kornias_luma_is_full_range_and_lowers_psnr_by_1_3219_db():
    torch.manual_seed(0)
    sr, hr = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64)
    ours = psnr(rgb_to_y(sr), rgb_to_y(hr), crop_border=0)
    theirs = psnr(kornia.color.rgb_to_y(sr), kornia.color.rgb_to_y(hr), crop_border=0)
    assert (ours - theirs).item() == pytest.approx(20 * math.log10(255 / 219), abs=1e-4)


def test_white_is_1_in_kornia_and_235_in_sr_lab():
    white = torch.ones(1, 3, 1, 1)
    assert kornia.color.rgb_to_y(white).item() == pytest.approx(1.0, abs=1e-6)
    assert rgb_to_y(white).item() * 255 == pytest.approx(235.0, abs=1e-3)


def test_torchmetrics_pools_the_squared_error_over_a_set():
    hr = torch.zeros(2, 1, 4, 4)
    sr = torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.01)])  # 20 dB and 40 dB
    pooled = PeakSignalNoiseRatio(data_range=1.0)(sr, hr).item()
    assert psnr(sr, hr, crop_border=0).mean().item() == pytest.approx(30.0, abs=1e-4)
    assert pooled == pytest.approx(-10 * math.log10((0.01 + 0.0001) / 2), abs=1e-4)


@pytest.fixture(scope="module")
def smooth_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy copy and its image, ``(1, 1, 40, 44)`` in float64."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(44.0), indexing="ij")
    hr = (0.5 + 0.3 * torch.sin(rows / 4) * torch.cos(columns / 5)).double()[None, None]
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (hr + 0.05 * noise).clamp(0, 1), hr


def reference(sr: torch.Tensor, hr: torch.Tensor) -> float:
    return references.ssim(sr[0, 0].numpy(), hr[0, 0].numpy(), data_range=1.0)


def test_kornias_ssim_with_valid_padding_equals_scikit_images(smooth_pair):
    theirs = kornia.metrics.ssim(*smooth_pair, window_size=11, padding="valid").mean().item()
    assert theirs == pytest.approx(reference(*smooth_pair), abs=1e-8)
    assert ssim(*smooth_pair, crop_border=0).item() == pytest.approx(theirs, abs=1e-8)


def test_torchmetrics_ssim_differs_from_scikit_images(smooth_pair):
    theirs = StructuralSimilarityIndexMeasure(data_range=1.0)(*smooth_pair).item()
    assert abs(theirs - reference(*smooth_pair)) > 1e-4


def test_torch_rounds_halves_to_even():
    assert torch.tensor([0.5, 1.5, 2.5]).round().tolist() == [0.0, 2.0, 2.0]


def keys_kernel(x: float, a: float) -> float:
    """Evaluate the cubic kernel of Keys (1981)."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


@pytest.mark.parametrize(("antialias", "a"), [(False, -0.75), (True, -0.5)])
def test_torchs_bicubic_kernel_equals_matlabs_only_with_antialiasing(antialias, a):
    impulse = torch.zeros(1, 1, 1, 9, dtype=torch.float64)
    impulse[..., 4] = 1
    upscaled = F.interpolate(impulse, size=(1, 18), mode="bicubic", antialias=antialias)[0, 0, 0]
    # pixel k of the upscaled row is at position (k + 0.5) / 2 - 0.5 in the small row
    expected = [keys_kernel((k + 0.5) / 2 - 0.5 - 4, a) for k in range(18)]
    assert upscaled.tolist() == pytest.approx(expected, abs=1e-7)


def test_torchs_counter_counts_attention_on_the_meta_device():
    query = torch.empty(1, 2, 10, 8, device="meta")  # 2 heads, 10 positions, 8 channels
    with FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(query, query, query)
    # There are two products, and a multiply-add counts as two operations.
    assert counter.get_total_flops() == 2 * (2 * 2 * 10 * 10 * 8)


def test_the_default_distributed_sampler_counts_an_image_twice():
    indices = [i for rank in range(2) for i in DistributedSampler(range(5), 2, rank, shuffle=False)]
    assert sorted(indices) == [0, 0, 1, 2, 3, 4]


def test_lightnings_unpadded_sampler_fails_for_a_rank_without_an_image():
    with pytest.raises(AssertionError):
        UnrepeatedDistributedSampler(range(2), num_replicas=3, rank=2, shuffle=False)


def test_a_checkpoint_with_a_dictconfig_does_not_open_with_weights_only(tmp_path):
    torch.save({"hyper_parameters": OmegaConf.create({"scale": 2})}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "a.ckpt", weights_only=True)


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings(r"ignore:.*does not have many workers")
def test_lightnings_averaged_weights_are_in_the_state_dict_and_the_raw_weights_are_stored_separately(
    tmp_path,
):
    class Save(lightning.Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    tiny.trainer(
        tmp_path, max_steps=2, limit_val_batches=0, callbacks=[EMAWeightAveraging(decay=0.75), Save()]
    ).fit(tiny.sr_module(learning_rate=0.1), tiny.data())
    first, second = (torch.load(tmp_path / f"{step}.ckpt", weights_only=True) for step in (1, 2))
    name = "network.head.weight"
    raw = second["current_model_state"][name]
    torch.testing.assert_close(second["state_dict"][name], 0.75 * first["state_dict"][name] + 0.25 * raw)
    assert not torch.equal(second["state_dict"][name], raw)


@pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty")
def test_lightnings_csv_logger_deletes_the_record_of_a_resumed_run(tmp_path):
    for step in (1, 2):
        logger = CSVLogger(tmp_path, name="", version="")
        logger.log_metrics({"loss": 1.0}, step=step)
        logger.save()
    text = next(Path(tmp_path).rglob("metrics.csv")).read_text()
    assert [line.split(",")[-1] for line in text.splitlines()] == ["step", "2"]


def composed(*overrides: str):
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def test_hydra_cannot_set_a_config_group_to_null():
    with pytest.raises((ConfigCompositionException, ValueError)):
        composed("upsampler=null")


def test_hydra_accepts_an_unknown_argument_silently():
    assert composed("+loss.typo=3").loss.typo == 3


def test_omegaconf_interpolation_cannot_index_by_integer_keys():
    table = OmegaConf.create({"scale": 2, "table": {2: "a"}, "chosen": "${table[${scale}]}"})
    with pytest.raises(OmegaConfBaseException):
        _ = table.chosen


# Private names that training uses, with the reason for each


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings(r"ignore:.*does not have many workers")
def test_lightning_broadcasts_sigterm_at_every_batch_with_this_method(tmp_path, monkeypatch):
    """`training.ending.SaveLast` replaces this method, which would wait for the device at every batch."""
    asked: list[None] = []

    class Several(lightning.Callback):
        def on_train_start(self, trainer, pl_module) -> None:
            assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: asked.append(None)
            monkeypatch.setattr(lightning.Trainer, "world_size", 2)
            monkeypatch.setattr(
                torch.distributed, "broadcast", lambda *_, **__: pytest.fail("so does another")
            )

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        trainer = tiny.trainer(tmp_path, max_steps=3, limit_val_batches=0, callbacks=[Several()])
        trainer.fit(tiny.sr_module(), tiny.data())
    finally:
        torch.distributed.destroy_process_group()
    assert len(asked) == 3


def test_lightnings_weight_averaging_has_the_private_names_that_are_used():
    """`training.weight_average.WeightAverage` uses them to update all tensors without waiting for the GPU."""
    average = EMAWeightAveraging(decay=0.5)
    assert average._average_model is None
    assert average._latest_update_step == 0


def test_torchs_sequence_of_schedules_has_the_private_keys_that_are_used():
    """`training.recipe` and `training.resume` find the schedules in a sequence by these keys."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    inner = [torch.optim.lr_scheduler.ConstantLR(optimizer, factor) for factor in (0.5, 1.0)]
    sequence = torch.optim.lr_scheduler.SequentialLR(optimizer, inner, milestones=[2])
    assert sequence.state_dict()["_milestones"] == [2]
    assert [state["factor"] for state in sequence.state_dict()["_schedulers"]] == [0.5, 1.0]
    assert vars(sequence)["_schedulers"] == inner


def test_lightnings_spike_detection_cannot_load_its_own_state():
    """`SRModule.on_load_checkpoint` drops this state until Lightning can load it."""
    spikes = SpikeDetection()
    with pytest.raises(AttributeError, match="running"):
        spikes.load_state_dict(spikes.state_dict())


def test_lightning_starts_no_processes_if_the_environment_says_they_exist():
    """`system.distributed.Environment` says so, because `together` has started the processes."""
    strategy = DDPStrategy(cluster_environment=Environment())
    trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False)
    assert trainer.strategy.cluster_environment.creates_processes_externally
    assert trainer.strategy.launcher.launch(lambda: "in this process") == "in this process"
    assert trainer.strategy.launcher.procs == []


# All private names of dependencies that we use, with the reason and what fails if the name is gone

PRIVATE = {
    ("sr_lab.checkpoints.reading", "torch._weights_only_unpickler"): (
        "torch's list of what a checkpoint may name has no public way to make it shorter; "
        "tests/security/test_attacks.py"
    ),
    ("sr_lab.checkpoints.reading", "_get_allowed_globals"): "see torch._weights_only_unpickler",
    ("sr_lab.config.hydra_guard", "_load_configuration_impl"): (
        "every composition goes through it in Hydra 1.3.8 and 1.4.0rc3, where the command line no longer "
        "calls load_configuration; `CommandLine.job` asserts that the check was called"
    ),
    ("sr_lab.config.hydra_guard", "_load_single_config"): (
        "the only place that knows which file sets which part of Hydra's node; tests/security/test_kinds.py"
    ),
    ("sr_lab.config.hydra_guard", "hydra._internal.config_loader_impl.ConfigLoaderImpl"): (
        "Hydra builds callbacks and logging before it calls us, without a hook; `CommandLine.job` "
        "asserts that the check was called"
    ),
    ("sr_lab.config.hydra_guard", "hydra._internal.sources_registry.SourcesRegistry"): (
        "bounds a file before Hydra reads it; tests/security reads a billion values through it"
    ),
    ("sr_lab.config.hydra_guard", "hydra._internal.hydra.Hydra"): (
        "--help prints our pages, for which Hydra has no hook; tests/help/test_help.py"
    ),
    ("sr_lab.runs.launchers", "hydra._internal.hydra.Hydra"): (
        "jobs of other launchers return their outcome, which Hydra drops; tests/distributed/test_launching.py"
    ),
    ("sr_lab.runs.search", "_trial_id"): (
        "a trial of an interrupted search continues; tests/runs/test_search.py"
    ),
    ("sr_lab.training.ending", "_broadcast_sigterm_tensor"): "a test above",
    ("sr_lab.training.recipe", "_milestones"): "a test above",
    ("sr_lab.training.recipe", "_schedulers"): "a test above",
    ("sr_lab.training.resume", "_milestones"): "a test above",
    ("sr_lab.training.resume", "_schedulers"): "a test above",
    ("sr_lab.training.weight_average", "_average_model"): "a test above",
    ("sr_lab.training.weight_average", "_latest_update_step"): "a test above",
    ("sr_lab.layers.norm", "torch.nn.modules.batchnorm._BatchNorm"): (
        "the common class of batch norms has no public name; the import"
    ),
    ("sr_lab.strategies.host", "torch._dynamo"): (
        "no public switch for guards on hooks; an unknown one raises"
    ),
    ("sr_lab.ops.complexity", "torch._subclasses.fake_tensor.FakeTensorMode"): (
        "no public fake tensors; the import"
    ),
    ("sr_lab.ops.complexity", "torch.utils._python_dispatch.TorchDispatchMode"): (
        "as in torch's counters; the import"
    ),
    ("sr_lab.ops.complexity", "torch.utils._pytree.tree_leaves"): "as in torch's counters; the import",
    ("sr_lab.ops.complexity", "_schema"): "whether an operator makes new tensors; the first count",
    ("sr_lab.ops.complexity", "_cdata"): "which tensors share memory; tests/ops/test_complexity.py",
    ("sr_lab.ops.roofline", "torch._subclasses.fake_tensor.FakeTensorMode"): "see ops.complexity",
    ("sr_lab.ops.roofline", "torch.utils._python_dispatch.TorchDispatchMode"): "see ops.complexity",
    ("sr_lab.ops.roofline", "torch.utils._pytree.tree_leaves"): "see ops.complexity",
    ("sr_lab.ops.roofline", "_scaled_dot_product_flash_attention"): "operator names; the import",
    ("sr_lab.ops.roofline", "_scaled_dot_product_flash_attention_for_cpu"): "operator names; the import",
    ("tests.analysis.test_analysis", "_forward_hooks"): "no public list of a module's hooks",
    ("tests.analysis.test_analysis", "_forward_pre_hooks"): "no public list of a module's hooks",
    ("tests.prepared", "_run_exitfuncs"): "a forked process exits as the interpreter does",
    ("tests.prepared", "_shutdown"): "a forked process waits for its threads as the interpreter does",
    ("sr_lab.inference.graph", "_upsample_bicubic2d_aa"): (
        "the operation that torch's own interpolation calls; exported graphs name it"
    ),
    ("tests.without_unix", "_getframe"): "which module imports something that only Unix has",
    ("tests.composing", "hydra._internal.config_loader_impl.ConfigLoaderImpl"): (
        "Hydra caches nothing between compositions, so they would take half of the time of all tests"
    ),
    ("tests.composing", "_compose_config_from_defaults_list"): "see the line above",
    ("tests.composing", "hydra._internal.config_repository.ConfigRepository"): "see the line above",
    ("tests.composing", "hydra._internal.defaults_list"): "see the line above",
    ("tests.composing", "hydra._internal.defaults_list.Overrides"): "see the line above",
    ("tests.composing", "_create_interpolation_map"): "see the line above",
    ("tests.composing", "hydra._internal.config_repository.IConfigRepository"): "see the line above",
    ("tests.composing", "_find_object_source"): "see the line above",
    ("tests.composing", "_get_version"): "see the line above; Hydra parses the same versions for each file",
    ("tests.composing", "_parent"): "see the next line",
    ("tests.composing", "_metadata"): "OmegaConf's own copies of nodes take half the time of a composition",
    ("tests.composing", "hydra._internal.hydra.Hydra"): "undoes what the program wraps",
    ("tests.datasets.test_folder", "_workers"): "the memory of a loader's processes is measured",
    ("tests.metrics.test_image_quality", "_reductions"): "nothing else says how torchmetrics merges it",
    (
        "tests.models.test_models",
        "torch._subclasses.fake_tensor.FakeTensorMode",
    ): "checks devices; see ops.complexity",
    ("tests.operators", "torch.utils._python_dispatch.TorchDispatchMode"): "see ops.complexity",
    ("tests.ops.test_complexity", "_forward_hooks"): "no public list of a module's hooks",
    ("tests.security.hostile", "torch._utils"): "a pickle with the function that torch's own pickles call",
    ("tests.security.hostile", "_utils"): "see torch._utils",
    ("tests.security.hostile", "_rebuild_tensor_v2"): "see torch._utils",
    ("tests.test_tables_whole", "_wandb_init"): "the tags that a W&B logger passes on have no public name",
    ("tests.training.test_weight_average", "_average_model"): "see training.weight_average",
    ("tests.training.test_weight_average", "_named_members"): "counts how often torch lists all tensors",
}
# Names that are documented despite their underscore, and keys of our own configuration.
PUBLIC = {"_exit", "_replace", "_asdict", "_target_", "_partial_"}


def _named_by_text(node: ast.AST) -> list[ast.expr]:
    """Expressions that may name an attribute or a key: ``a["x"]``, ``a.get("x")``, ``getattr(a, "x")``."""
    if isinstance(node, ast.Subscript):
        return [node.slice]
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return node.args[:2] if called in ("get", "pop", "getattr", "hasattr", "setattr", "delattr") else []
    return []


def _taken(nodes: list[ast.AST]) -> set[str]:
    """Attributes, keys and imports in a module whose own name or parent module begins with one underscore."""
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    texts = [each.value for node in nodes for each in _named_by_text(node) if isinstance(each, ast.Constant)]
    found |= {text for text in texts if isinstance(text, str) and text.isidentifier()}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    private = {name for name in found if re.search(r"(^|\.)_(?!_)", name)} - PUBLIC - {"_dynamo"}
    return {name for name in private if not name.startswith("sr_lab.")}


def _defined(nodes: list[ast.AST]) -> set[str]:
    """Names that a module defines or assigns to."""
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}


def test_private_names_are_exactly_those_in_the_list():
    root = Path(__file__).parents[1]
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts): list(ast.walk(ast.parse(path.read_text())))
        for folder in ("sr_lab", "experiments", "tests")
        for path in (root / folder).rglob("*.py")
    }
    # Names in PRIVATE are removed because we assign to some of them.
    ours = set().union(*map(_defined, modules.values())) - {name for _, name in PRIVATE}
    del modules["tests.test_dependencies"]  # the tests above need not give their reason twice
    found = {(module, name) for module, nodes in modules.items() for name in _taken(nodes) - ours}
    assert found == set(PRIVATE)


def test_optunas_trials_have_the_private_number_that_resumes_them():
    study = optuna.create_study()
    assert optuna.trial.Trial(study, study.ask()._trial_id).number == 0
