"""Lightning, Accelerate, MONAI and JAX: the page's scripts run, batches go through."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastseg
from fastseg import Loader
from tests.conftest import PROJECT

PAGE = PROJECT / "docs" / "frameworks.md"
FRAMEWORKS = {
    "Lightning": "lightning",
    "Accelerate": "accelerate",
    "MONAI": "monai",
    "JAX": "jax",
}

# What these packages warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


def need(*packages):
    for package in packages:
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")


def scripts_of(framework):
    """Return the Python blocks of the section of a framework."""
    text = PAGE.read_text(encoding="utf-8")
    (section,) = re.findall(
        rf"^## {framework}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def heart(store, tmp_path, monkeypatch):
    """The store of the sample data, as `heart.h5` in the current folder."""
    shutil.copy(store.path, tmp_path / "heart.h5")
    monkeypatch.chdir(tmp_path)
    return fastseg.open("heart.h5")


def test_the_page_has_these_sections():
    """Each framework has its section, with scripts; no other is left out here."""
    headings = re.findall(r"^## (.+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [*FRAMEWORKS]
    assert [len(scripts_of(name)) for name in FRAMEWORKS] == [1, 1, 3, 1]


@pytest.mark.parametrize("framework", ["Lightning", "Accelerate", "MONAI"])
@pytest.mark.usefixtures("heart")
def test_the_scripts_of_the_page_run(framework, capsys):
    """They train on the sample data and print a finite loss."""
    need("torch", FRAMEWORKS[framework])
    scope = {"__name__": "__main__"}
    for script in scripts_of(framework):
        exec(compile(script, framework, "exec"), scope)
    losses = re.findall(r"loss (\S+)", capsys.readouterr().out)
    assert losses
    assert np.isfinite([*map(float, losses)]).all()


@pytest.mark.usefixtures("heart")
def test_the_script_for_jax_runs():
    """It trains on the sample data, and the loss decreases."""
    need("jax")
    # In a process of its own: JAX warns in each process that forks after it.
    (script,) = scripts_of("JAX")
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", run.stdout)]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)


# Lightning -----------------------------------------------------------------------


def batches_of(store, **options):
    options = {"batch_size": 8, "size": 96, "masks": "icontour", **options}
    return fastseg.torch.as_torch(Loader(store, **options))


def indices_of(batches):
    return [batch.index.tolist() for batch in batches]


def make_trainer(**options):
    import lightning

    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, **options},
    )


def make_model():
    """Return a LightningModule that lists the indices of the batches it got."""
    import lightning
    import torch

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.seen = []

        def training_step(self, batch, number):
            image, mask = batch
            assert type(batch) is fastseg.torch.TorchBatch
            assert len(batch.params["index"]) == len(image) == len(mask)
            self.seen.append(batch.index.tolist())
            return (self.weight * image[:, 0] - mask).square().mean()

        def validation_step(self, batch, number):
            self.log("loss", self.weight, batch_size=len(batch))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Model()


def test_lightning_trains_on_every_batch_and_resumes(store, tmp_path):
    """It gets the batches of a plain loop, also from a checkpoint within an epoch."""
    need("torch", "lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    options = {"augment": "light", "return_params": True, "seed": 4}
    plain = batches_of(store, **options)
    expected = indices_of(plain) + indices_of(plain)
    every = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    model = make_model()
    trainer = make_trainer(default_root_dir=tmp_path, callbacks=[every])
    val = batches_of(store, shuffle=False)
    trainer.fit(model, batches_of(store, **options), val)
    assert model.seen == expected
    for step in (2, 4, 7):
        model = make_model()
        trainer = make_trainer(default_root_dir=tmp_path, enable_checkpointing=False)
        checkpoint = tmp_path / f"step={step}.ckpt"
        trainer.fit(model, batches_of(store, **options), val, ckpt_path=checkpoint)
        assert model.seen == expected[step:]


@pytest.mark.parametrize("reload", [0, 1])
def test_lightning_goes_on_after_a_whole_epoch(store, tmp_path, reload):
    """It sets the epoch: after a checkpoint of a finished one, and with new loaders."""
    need("torch", "lightning")
    options = {"augment": "light", "return_params": True, "seed": 4}
    plain = batches_of(store, **options)
    expected = indices_of(plain) + indices_of(plain) + indices_of(plain)
    usual = {"default_root_dir": tmp_path, "enable_checkpointing": False}

    def fit(epochs, **more):
        model = make_model()
        model.train_dataloader = lambda: batches_of(store, **options)
        model.validation_step = None
        trainer = make_trainer(
            **usual, reload_dataloaders_every_n_epochs=reload, max_epochs=epochs
        )
        trainer.fit(model, **more)
        return model, trainer

    first, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    last, _ = fit(3, ckpt_path=tmp_path / "two.ckpt")
    assert first.seen + last.seen == expected


def test_lightning_changes_image_and_mask_alone(store):
    """Its helpers apply functions to both and move both; index and params stay."""
    need("torch", "lightning")
    import torch
    from lightning.fabric.utilities import move_data_to_device
    from lightning_utilities.core.apply_func import apply_to_collection

    batch = next(iter(batches_of(store, augment="light", return_params=True)))
    more = apply_to_collection([batch], torch.Tensor, lambda tensor: tensor + 1)[0]
    assert type(more) is type(batch)
    assert torch.equal(more.image, batch.image + 1)
    assert torch.equal(more.mask, batch.mask + 1)
    moved = move_data_to_device({"a": batch}, torch.device("meta"))["a"]
    assert moved.image.is_meta
    assert moved.mask.is_meta
    for other in (more, moved):
        assert torch.equal(other.index, batch.index)
        assert other.params == batch.params


# Accelerate ----------------------------------------------------------------------


def test_accelerate_moves_image_and_mask(store):
    """`send_to_device` moves both; index and params stay."""
    need("torch", "accelerate")
    from accelerate.utils import send_to_device

    batch = next(iter(batches_of(store, augment="light", return_params=True)))
    moved = send_to_device([batch], "meta", non_blocking=True)[0]
    assert moved.image.is_meta
    assert moved.mask.is_meta
    assert moved.index is batch.index
    assert moved.params is batch.params


def test_accelerate_prepares_batches(store, tmp_path):
    """`prepare` leaves as_torch as it is, and sets the epoch of a Dataset.

    Its checkpoints resume the batches.
    """
    need("torch", "accelerate")
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    accelerator = Accelerator(cpu=True)
    batches = batches_of(store, seed=4)
    assert accelerator.prepare(batches) is batches
    accelerator.register_for_checkpointing(batches)
    running = iter(batches)
    next(running)
    accelerator.save_state(tmp_path / "state")
    rest = indices_of(running)
    accelerator.load_state(tmp_path / "state")
    assert indices_of(batches) == rest

    options = {"size": 96, "masks": "icontour", "augment": "light", "seed": 4}
    dataset = fastseg.torch.Dataset(store, **options)
    prepared = accelerator.prepare(DataLoader(dataset, batch_size=8))
    _ = dataset[0]
    ours = Loader(store, batch_size=8, shuffle=False, **options)
    for _ in range(2):
        for (image, mask), expected in zip(prepared, ours, strict=True):
            assert_array_equal(image.numpy(), expected.image, strict=True)
            assert_array_equal(mask.numpy(), expected.mask, strict=True)


# MONAI ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"augment": "light", "return_params": True}])
def test_monai_takes_a_batch_as_a_dict(store, options):
    """It divides one into samples, and a dict transform changes the named field."""
    need("torch", "monai")
    import torch
    from monai.data import decollate_batch
    from monai.transforms import ScaleIntensityRanged

    batch = next(iter(batches_of(store, **options)))
    samples = decollate_batch(dict(batch))
    assert len(samples) == len(batch)
    assert torch.equal(samples[3]["image"], batch.image[3])
    assert torch.equal(samples[3]["mask"], batch.mask[3])
    assert samples[3]["index"] == batch.index[3]
    double = ScaleIntensityRanged("image", a_min=0, a_max=1, b_min=0, b_max=2)
    changed = double(dict(batch))
    assert torch.allclose(torch.as_tensor(changed["image"]), 2 * batch.image)
    assert changed["mask"] is batch.mask
