"""What a trained run says of its validation part, from the features that its training kept."""

from __future__ import annotations

from flax_attn.data import Dataset
from flax_attn.explain.trained_run import TrainedRun
from flax_attn.models.tasks import TASKS
from flax_attn.training.case_inputs import inputs_of
from flax_attn.training.evaluation import Evaluation, evaluate_examples
from flax_attn.training.sources import ExampleSource, example_sources


def validation(run: TrainedRun, dataset: Dataset) -> ExampleSource:
    """The validation examples."""
    cases = inputs_of(dataset, run.config, run.metadata)
    return example_sources(run.config, run.structure, run.params, run.stats, dataset, cases=cases)[
        1
    ]


def evaluate(run: TrainedRun, source: ExampleSource) -> Evaluation:
    """Evaluates examples, and keeps the attention."""
    return evaluate_examples(
        run.eval_step,
        run.params,
        run.stats,
        source,
        num_classes=len(run.classes),
        task=TASKS[run.config.train.task],
        keep_attention=True,
    )
