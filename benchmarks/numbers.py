"""How good the numbers check is: wrong numbers found on the labelled corpus, by kind, false alarms, random percentages, CPU of an answer."""

from zqyy_ai_tests.domain.number_figures import HALVES, corpus_figures, cpu_ms_an_answer, random_percentages_explained

LEAST_RECALL = 0.95
MOST_FALSE_ALARMS = 0.03
MOST_RANDOM_EXPLAINED = 0.05
MOST_CPU_MS = 3
TRIALS = 20_000


def lines(*, quick: bool = False) -> list[str]:
    """Rows of the benchmarks' table."""
    rows = []
    for half, figures in ((half, corpus_figures(half)) for half in HALVES):
        by_kind = ", ".join(f"{kind} {figures.found[kind]}/{planted}" for kind, planted in sorted(figures.planted.items()))
        rows += [
            (
                f"| Numbers check, {half} half: wrong numbers found | {figures.recall:.1%} | ≥ {LEAST_RECALL:.0%} | "
                f"{figures.insights} insights; {by_kind} |"
            ),
            (
                f"| Numbers check, {half} half: false alarms | {figures.false_alarms:.1%} | ≤ {MOST_FALSE_ALARMS:.0%} | "
                f"{figures.alarms} of {figures.others} right numbers, proposals and list numbers |"
            ),
        ]
    trials = TRIALS // 10 if quick else TRIALS
    return [
        *rows,
        (
            f"| Numbers check: a random percentage is explained | {random_percentages_explained(trials):.2%} | < {MOST_RANDOM_EXPLAINED:.0%} | "
            f"{trials} of one decimal, in sentences with the prompts' metrics, on the corpus's 32 facts |"
        ),
        f"| Numbers check: CPU of an answer | {cpu_ms_an_answer():.1f} ms | ≤ {MOST_CPU_MS} ms | 7 insights, preparation of the facts included; best of 5 rounds |",
    ]
