"""Contact sheets of a comparison on the emoji benchmark: `python docs/emoji_sheets.py runs/emoji docs/results`.

One sheet a concept: a row a prompt, a column a model; the original and the reference first, then what each method or guard made of it with seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from efface import runs, sources
from efface.benchmarks import emoji
from efface.data import emoji_rows as grid
from efface.report import contact
from efface.sources import Source

SEEDS = (188, 288)


def prompts_of(concept: str) -> list[str]:
    """Prompts to forget, the same in other words, and prompts to keep."""
    if concept in grid.STYLES:
        others = [style for style in grid.STYLES if style != concept]
        return [*(grid.prompt(name, concept) for name in ("dog", "apple", "car")), f"{concept} style rose", *(grid.prompt(name, others[at % 2]) for at, name in enumerate(("dog", "apple", "tree")))]
    near = [str(name).split()[-1] for name in emoji.request(concept).near]
    return [*(grid.prompt(concept, style) for style in grid.STYLES), f"{grid.named(grid.SYNONYMS[concept])} in noto style", *(grid.prompt(name, style) for name, style in zip((*near[:2], "tree"), grid.STYLES, strict=True))]


def main() -> None:
    """Write one PNG for each concept of the comparison."""
    place, out = Path(sys.argv[1]), Path(sys.argv[2])
    for concept in sorted({folder.name.split("-concept-")[1].removesuffix("-seed0") for folder in place.glob("*-concept-*-seed0")}):
        case = sources.benchmark(Source(benchmark="emoji", benchmark_settings={"concept": concept}))
        models = {name: case.baselines[name] for name in ("original", "reference") if name in case.baselines}
        for folder in sorted(place.glob(f"*-concept-{concept}-seed0")):
            record = runs.record_of(folder)
            models[folder.name.split("-concept-")[0]] = runs.candidate_of(folder, case, record.source, record)
        prompts = prompts_of(concept)
        columns = [(name, model.generate(prompts, [SEEDS[at % 2] for at in range(len(prompts))])) for name, model in models.items()]  # type: ignore[attr-defined]
        contact.write(out / f"emoji_{concept}.png", prompts, columns)


if __name__ == "__main__":
    main()
