"""What each form of attention between inputs looks at, of one question to one scene, in a picture.

    python -m benchmarks.form_pictures --workdir runs/asked --out docs/forms.png [--case 14]

Draws the runs of the first seed that ``benchmarks.asked`` has left in the folder, of questions that
are metadata and of those that are a picture: the scene, in which the animal that is asked for is
outlined, beside each gate's map of it. Titles have the form and its answer, a wrong one in red.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import flax_attn as fa
from benchmarks.asked import FORMS, evaluate, folder_of, validation
from flax_attn.data.dataset import photographs_of
from flax_attn.data.drawn.asked import PATTERNS, animal_masks, asked_animals
from flax_attn.explain.explained import outline
from flax_attn.figures.image_panels import Panel, draw_attention
from flax_attn.models.cases import maps_by_view

# Of both the cases stand in the same order.
QUESTIONS = ("metadata", "picture")


def show(workdir: Path, title: str, case: int) -> tuple[Panel, str]:
    """What a run looks at in the scene of a validation case, and the coat that is asked for."""
    run = fa.load(workdir)
    dataset = fa.data.open_dataset(run.config.data)
    val = dataset.splits["val"]
    found = evaluate(run, validation(run, dataset))
    maps = maps_by_view(found.attention, run.config.model, run.classes)[0]
    (asked,) = asked_animals(val)[case]
    flat, places = photographs_of(val)
    image = flat.image(int(places[case, 0]))
    line = outline(animal_masks(val, case)[asked])
    likely = found.probabilities[case]
    answer = int(likely.argmax())
    shown = Panel(
        np.where(line[..., 3:] > 0, line[..., :3], image),
        {name: weights[case] for name, weights in maps.items()},
        f"{title}\n{run.classes[answer]} {likely[answer]:.0%}",
        answer == int(np.asarray(val.labels)[case]),
    )
    return shown, PATTERNS[asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", type=int, default=14, help="place of a validation case, from 0")
    args = parser.parse_args()
    panels, coats = [], set()
    for question in QUESTIONS:
        for name in FORMS[question]:
            workdir = folder_of(args.workdir, question, name, 0)
            if workdir.is_dir():
                shown, coat = show(workdir, f"{question}: {name}", args.case)
                panels.append(shown)
                coats.add(coat)
    draw_attention(panels, args.out, title=f"asked for: the animal with {', '.join(coats)}")


if __name__ == "__main__":
    main()
