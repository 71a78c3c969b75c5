"""A trained network, evaluated: `--test-only`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from full_spike.utils.checkpoints import checkpoint, resume
from full_spike.utils.checkpoints.weights import about_of, set_weights
from full_spike.utils.cli.job import Job
from full_spike.utils.errors import UsageError, UserError
from full_spike.utils.files import check_output_folder
from full_spike.utils.log import table
from full_spike.utils.runtime.networks import TrainableNetworks
from full_spike.utils.train.classes import ByClass, class_names
from full_spike.utils.train.evaluation import evaluate, readout_names
from full_spike.utils.train.predictions import Likeliest, write_predictions
from torch import Tensor


def test(job: Job, models: TrainableNetworks) -> None:
    """Evaluate a checkpoint, ours or a published one."""
    run, world, say = job.config.run, job.world, job.log.say
    found = job.given.found or resume.find(run.resume, job.folder, say, world)
    if found is None:
        raise UserError(f"there is no checkpoint in {job.folder}: name one by --resume{job.beside}")
    path, content = found
    model = job.model
    set_weights(path, content, model, models.load_published, averaged=run.ema)
    if job.config.testing.detach:
        try:
            model = models.detach_aap(model)
        except ValueError as error:
            raise UsageError(f"--detach: {error}") from None
    predictions = job.config.testing.predictions
    if predictions is not None:
        check_output_folder(Path(predictions).parent, "--predictions")
    by_class = ByClass(readout_names(model), job.data.num_classes, world.device)
    likeliest = Likeliest()

    def watch(logits: dict[str, Tensor], target: Tensor) -> None:
        by_class.update(logits, target)
        if predictions is not None:
            likeliest.update(logits, target)

    scores, _ = evaluate(model, job.loaders.test, world, job.log, watch=watch)
    say(f"{model.config['model']}{', averaged weights' if run.ema else ''} from {path}")
    say(table(scores, job.data.unit))
    say(f"\n{by_class.table(by_class.read(world), class_names(job.data), job.data.unit)}")
    if predictions is not None:
        rows = likeliest.rows(world, len(job.data.test))
        with world.main_only("writing the predictions") as main:
            if main:
                write_predictions(Path(predictions), rows, job.data)
                say(f"wrote {predictions}")
    # what is made lies beside a checkpoint, but not in a folder of weights, which may be the one that comes along
    place = job.folder if path.suffix == ".safetensors" or path.is_dir() else path.parent
    if job.config.testing.synops:
        _count(job, model, path, place)
    if job.config.testing.detach:
        with world.main_only("saving the detached network") as main:
            if main:
                target = place / "fsnn.pth"
                place.mkdir(parents=True, exist_ok=True)
                about = {"recipe": dict(job.data.recipe), **about_of(content), **job.about()}
                checkpoint.write(target, {"config": model.config, "model": model.state_dict(), **about})
                say(f"without the pathway, saved as {target}")


def _count(job: Job, model: Any, path: Path, place: Path) -> None:
    """Synaptic operations and energy of the network trained at `path`, on its test set; the report lies at `place`."""
    if job.world.size > 1:
        raise UsageError(f"--synops counts in one process, not in {job.world.size}: start without torchrun")
    from full_spike.utils.measure.synops import write_report  # the counters are only imported where they are used

    write_report(
        model,
        job.loaders.test,
        place / "synops",
        device=job.world.device,
        data=f"the test set, weights of {path}",
        syops=not job.config.testing.no_syops,
    )
