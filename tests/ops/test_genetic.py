import torch

from efface.ops import genetic


def chance():
    return torch.Generator().manual_seed(0)


def test_crossing_exchanges_tails():
    """Parents of 1s and of 2s, every one crossed, nothing mutated: each child is 1...12...2 or 2...21...1, and they come in pairs."""
    parents = torch.tensor([[1] * 6, [2] * 6])
    born = genetic.children(parents, torch.tensor([9]), 1.0, 0.0, chance())
    assert len(born) == 4 and parents.tolist() == [[1] * 6, [2] * 6]
    assert all((row.diff() != 0).sum() <= 1 for row in born)
    assert torch.equal(born[0] + born[2], torch.full((6,), int(born[0, 0] + born[2, 0])))


def test_mutation_changes_one_token_of_copies():
    parents = torch.ones(50, 6, dtype=torch.long)
    born = genetic.children(parents, torch.tensor([9]), 0.0, 1.0, chance())
    assert len(born) == 50 and ((born == 9).sum(1) == 1).all() and (parents == 1).all()


def test_the_best_never_gets_worse():
    """Fitness: tokens that are not 7. Half of the population stays, the best first, each sequence once."""
    def fitness(rows):
        return (rows != 7).sum(1).float()

    source, words = chance(), torch.arange(20)
    rows = words[torch.randint(20, (20, 5), generator=source)]
    rows, scores = genetic.generation(rows[:0], torch.zeros(0), fitness, 10, rows)
    best = [float(scores[0])]
    for _ in range(60):
        rows, scores = genetic.generation(rows, scores, fitness, 10, genetic.children(rows, words, 0.5, 0.25, source))
        assert torch.equal(scores, fitness(rows)) and len(rows) == 10 and len(set(map(tuple, rows.tolist()))) == 10
        best.append(float(scores[0]))
    assert best == sorted(best, reverse=True) and best[-1] == 0
