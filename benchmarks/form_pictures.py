"""What forms of attention between inputs look at, in a picture.

    python -m benchmarks.form_pictures --workdir runs/asked --out docs/forms.png [--scene 9]

Draws runs of the first seed that ``benchmarks.asked`` has left in the folder: first the four
questions to a scene as metadata alone ask them, then the last of these questions in the other
forms, as metadata and as a picture. The animal that is asked for is outlined beside each gate's map
of the scene. Titles have the form and its answer, a wrong one in red.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import flax_attn as fa
from benchmarks.asked import FORMS, folder_of
from benchmarks.validation import evaluate, validation
from flax_attn.data.dataset import photographs_of
from flax_attn.data.drawn.asked import PATTERNS, animal_masks, asked_animals
from flax_attn.explain.explained import outline
from flax_attn.figures.image_panels import Panel, draw_attention
from flax_attn.models.cases import maps_by_view

FIRST = ("metadata", "into the query, no guide")
# Of both the cases stand in the same order, all questions to a scene one after the other.
OTHERS = [(q, form) for q in ("metadata", "picture") for form in FORMS[q] if (q, form) != FIRST]


def show(workdir: Path, title: str, case: int) -> Panel:
    """What a run looks at in the scene of a validation case."""
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
    return Panel(
        np.where(line[..., 3:] > 0, line[..., :3], image),
        # Whom a map was asked by is in the title.
        {name.split(" ")[0]: weights[case] for name, weights in maps.items()},
        f"{title}, {PATTERNS[asked]}: {run.classes[answer]} {likely[answer]:.0%}",
        answer == int(np.asarray(val.labels)[case]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scene", type=int, default=9, help="of the validation part, from 0")
    args = parser.parse_args()
    cases = range(len(PATTERNS) * args.scene, len(PATTERNS) * (args.scene + 1))
    wanted = [(*FIRST, case) for case in cases] + [(*other, cases[-1]) for other in OTHERS]
    panels = []
    for question, form, case in wanted:
        workdir = folder_of(args.workdir, question, form, 0)
        if workdir.is_dir():
            title = "metadata ask" if (question, form) == FIRST else form
            panels.append(show(workdir, title, case))
    draw_attention(panels, args.out, title="the animal asked for is outlined: a cat or a dog?")


if __name__ == "__main__":
    main()
