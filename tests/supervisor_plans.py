"""Plans for the model of the supervisor that chance finds too seldom, by what they are for."""

from tests.supervisor_model import Kid, Plan, Step

BEGIN = Step("nothing", turns=3)

# With odd times, so that no two timers are due at once.
PLANS = {
    "the window never slides": Plan(
        (Kid("a", base=1.25),),
        intensity=(1, 50.0),
        steps=(BEGIN, Step("raise", seconds=60.0), Step("raise", seconds=60.0)),
    ),
    "the order is kept in spite of a stuck child": Plan(
        (Kid("a"), Kid("b"), Kid("c", stop_timeout=5.25, hangs=1)), total=30.5
    ),
    "a stopped child leaves its timer behind": Plan(
        (Kid("a", base=1.25), Kid("b")),
        steps=(BEGIN, Step("raise", seconds=0.5), Step("stop", seconds=30.0)),
    ),
    "a stray cancel is taken for a stop": Plan(
        (Kid("a", base=1.25),), steps=(BEGIN, Step("stray", seconds=9.0))
    ),
    "a stopped child is revived with its group": Plan(
        (Kid("a"), Kid("b", hangs=1, stop_timeout=5.25)),
        strategy="one_for_all",
        steps=(BEGIN, Step("stop", 1, seconds=1.0), Step("raise", seconds=30.0)),
    ),
    "one that was restarted by hand fails its start": Plan(
        (Kid("a", reports=True, born=("started", "raise")), Kid("b")),
        steps=(
            BEGIN,
            Step("stop", seconds=1.0),
            Step("restart", seconds=9.0),
        ),
    ),
    "the rest is restarted for one": Plan(
        (Kid("a"), Kid("b")),
        strategy="rest_for_one",
        steps=(BEGIN, Step("raise", 1, seconds=9.0)),
    ),
    "an essential one finishes": Plan(
        (Kid("a", essential=True), Kid("b")), steps=(BEGIN, Step("return", seconds=9.0))
    ),
    "a long history": Plan(
        (Kid("a", max_restarts=9, born=("raise",) * 12),),
        steps=(Step("nothing", seconds=60.0),),
    ),
}
