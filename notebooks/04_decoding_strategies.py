# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Decoding strategies
#
# The last chapter fixed the positions of a step in advance. Real systems
# choose them: the surest first, all above a threshold, far apart, some taken
# back later. The literature has a name for each of these rules and often a
# table in which it wins.
#
# Here every rule meets the *same exact denoisers*. So what it loses, it loses
# by itself. We ask which rules still draw from the joint, what each call of
# the model buys, when confidence is the right guide and when it is not, how
# far an oracle would get, and what taking tokens back can repair.
#
# Definitions, the table of all rules with their papers, and the proofs are on
# the page [Decoding: definitions, rules and
# proofs](../book/theory_decoding.md). Logarithms are natural. In figures a
# line is exact, and points with bars are measured.

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/04_decoding_strategies.ipynb)

# %% tags=["install", "remove-cell"]
try:
    import dllm_tutorial
except ImportError:
    source = "git+https://github.com/OWNER/dllm-tutorial@v0.1.0"
    # %pip install -q {source}
    import dllm_tutorial

# %% tags=["parameters"]
PROFILE = "smoke"
SEED = 0

# %% tags=["report", "remove-input", "nbval-ignore-output"]
print(dllm_tutorial.environment(PROFILE))

# %%
import itertools
import math

import numpy as np
import torch

from dllm_tutorial import (
    config,
    exact,
    joints,
    laws,
    ledger,
    limited,
    measure,
    plots,
    schedules,
    strategies_study,
    study,
)
from dllm_tutorial.decoding import Strategy, generate, strategies

torch.set_num_threads(1)
plots.style()
sizes = config.load("04_decoding_strategies", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
generator = torch.Generator().manual_seed(SEED)


def masks(joint):
    return torch.full((joint.length,), joint.mask_id)


# %% [markdown]
# ## One loop, three parts
#
# Every step proposes a token at every masked position. Then a rule decides:
#
# - **rank**: which position is best;
# - **quota**: how many of the best are revealed;
# - **revise**: which revealed tokens are masked again (most rules: none).
#
# The *confidence* of a position is the probability of the token drawn there.
# Ties go to the left. One call of the model is one NFE, a *number of function
# evaluations*; it is what a rule spends. The rules of the next cell:
#
# - *top-k*, here with $k = 2$: the two best positions, ranked at random, from
#   the left, by confidence, or by entropy (the smallest first);
# - *threshold*: all positions with a confidence of at least $\gamma$, and
#   never less than the best one;
# - *factor*: the best $m$ positions while $(m + 1)(1 - c_{(m)}) < f$, where
#   $c_{(m)}$ is the smallest confidence among them;
# - *EB*, entropy-bounded: the smallest entropies first, as many as have a sum,
#   without the largest of them, of at most $\gamma$;
# - *dilated*: a coarse grid of positions, then the finer grids between;
# - *ancestral*: the sampler of [chapter 2](02_schedules.ipynb), a coin for
#   every position in each step of a schedule;
# - *first-hitting*: the same sampler, called only when a mask falls: one random
#   position a call.
#
# **Predict.** A chain of 16 tokens in which neighbors tend to agree. Tokens 5
# and 11 are given. Which rules start next to the given tokens? Which ones
# reveal a position in the same step as its neighbor?

# %%
sticky = torch.tensor(
    [
        [0.70, 0.20, 0.06, 0.04],
        [0.10, 0.75, 0.05, 0.10],
        [0.05, 0.15, 0.60, 0.20],
        [0.20, 0.05, 0.10, 0.65],
    ],
    dtype=torch.float64,
)
sticky_chain = joints.MarkovChain(sticky, 16)
prompt = masks(sticky_chain)
prompt[5], prompt[11] = 0, 2
shown = {
    "random, k = 2": strategies.random_top_k(2),
    "left to right, k = 2": strategies.left_to_right(2),
    "confidence, k = 2": strategies.confidence_top_k(2),
    "entropy, k = 2": strategies.entropy_top_k(2),
    "threshold .75": strategies.confidence_threshold(0.75),
    "factor 1": strategies.factor(1.0),
    "EB 1": strategies.entropy_bounded(1.0),
    "dilated": strategies.dilated(),
    "ancestral, 8 steps": strategies.ancestral(schedules.Linear(), 8),
    "first-hitting": strategies.first_hitting(schedules.Linear()),
}
order, calls = [], {}
for name, rule in shown.items():
    out = generate(
        sticky_chain,
        prompt[None],
        rule,
        temperature=1.0,
        seeds=torch.tensor([SEED]),
        record=True,
    )
    masked = (out.history.states[:, 0] == sticky_chain.mask_id).double()
    step = masked.sum(0)  # masked in s states: revealed in step s
    order.append(torch.where(step > 0, step, torch.nan).numpy())
    calls[name] = out.nfe.item()

# %% mystnb={"figure": {"caption": "The step at which each of 16 positions was revealed, one row a rule; the same chain, the same prompt (positions 5 and 11 are given and stay white), the same seed 0. Confidence, entropy and EB grow outwards from what is known; random and dilated scatter.", "name": "fig-reveal"}, "image": {"alt": "Heat map with ten rows, one for each rule, and 16 columns. Left to right is a staircase; random and dilated are scattered; confidence grows from the given positions."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.4)
plots.reveal_map(ax, order, names=list(shown))

# %%
print(f"{'':>21}  calls  first step at   neighbors together")
for (name, n), step in zip(calls.items(), order):
    first = ", ".join(str(i) for i in np.flatnonzero(step == 1))
    pairs = sum(step[1:] == step[:-1])
    print(f"{name:>21}: {n:5d}  {first:>13}  {pairs:19d}")

# %% [markdown]
# **What this shows.** Positions count from 0. Confidence, entropy, threshold,
# factor and EB start at 4, beside a given token, and all but the threshold
# take 6 on its other side with it: there the prediction is surest. Left to
# right, dilated and ancestral start elsewhere, and a random order comes there
# by luck. Left to right reveals neighbors together in all steps but one;
# dilated never does, because no grid holds two neighbors. **What it does not
# show.** What that costs, and more than one seed.
#
# A rule of your own is a rank and a quota. This one reveals the outermost
# masked position first:


# %%
def outside_in(view):
    middle = (view.masked.shape[-1] - 1) / 2
    places = torch.arange(view.masked.shape[-1], device=view.masked.device)
    return (places - middle).abs().expand_as(view.masked)


def one(view, score):
    return torch.ones_like(view.size)


mine = Strategy("outside in", rank=outside_in, quota=one)
found = measure.accuracy(
    joints.shuffle(8).to(device),
    mine,
    sizes.draws,
    temperature=1.0,
    generator=generator,
)
print(f"{mine}: valid shuffles {found}, n = {found.draws}")

# %% [markdown]
# ## One token at a time: which rules are exact?
#
# With one token per step nothing is revealed in parallel, so nothing can
# collide.
#
# **Predict.** Temperature 1, exact denoiser, one token per step. Which of
# these rules answer with a valid sequence every time? Which draw from the
# *joint*, so that $\mathrm{KL}(p \,\|\, q) = 0$? Five rules: left to right,
# margin, entropy, confidence, and a confidence threshold of .95, which
# usually reveals one.

# %%
tasks = {
    "Shuffle": joints.shuffle(4),
    "Replace Random": joints.replace_random(5),
    "copied pairs": strategies_study.copied_pairs(4),
    "chain": joints.MarkovChain(
        torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64),
        6,
        initial=torch.tensor([0.5, 0.5], dtype=torch.float64),
    ),
}


def judge(joint, rule):
    """Divergence in nats, P(valid) and mean calls, all exact."""
    law = laws.answer_law(joint, masks(joint), rule)
    divergence = exact.kl_divergence(joint, law.answers)
    valid = exact.valid_probability(joint, law.answers)
    return abs(divergence), valid, law.nfe


singles = {
    "left to right": strategies.left_to_right(1),
    "margin": strategies.margin_top_k(1),
    "entropy": strategies.entropy_top_k(1),
    "confidence": strategies.confidence_top_k(1),
    "threshold .95": strategies.confidence_threshold(0.95),
}
print(f"{'KL in nats':>15}" + "".join(f"{name:>16}" for name in tasks))
for name, rule in singles.items():
    cells = [judge(joint, rule) for joint in tasks.values()]
    assert all(abs(valid - 1) < 1e-9 for _, valid, _ in cells)
    print(f"{name:>15}" + "".join(f"{cell[0]:16.4f}" for cell in cells))
chain = tasks["chain"]
at_once = judge(chain, strategies.left_to_right(chain.length))[0]
print(f"for comparison, the whole chain in one step: {at_once:.4f}")

# %% [markdown]
# All answers are valid. But the two rules that rank by the probability of the
# *drawn* token bend the law: the same position waits if it drew something
# unlikely, and gets another chance to draw something likely. On the chain
# they end up further from the joint with one call per token than drawing
# everything independently in a single call. Margin and entropy look at the
# prediction and not at the draw, and are exact: an order may depend on what
# is already revealed, but not on what it is about to reveal
# ([theorem](../book/theory_decoding.md)).
#
# In replace-random the bend can be computed by hand: a step with $r > 2$ masks
# left, and nothing replaced so far, replaces an item with probability $r^{-r}$
# instead of $1/r$.

# %% mystnb={"figure": {"caption": "Which of five items is replaced, temperature 1, one token a step. Exact. The joint replaces each with probability 1/5. Confidence ranking reveals the items that were kept, so the replaced one is almost always among the last two positions it gets to.", "name": "fig-bent"}, "image": {"alt": "Bar chart over five positions. Entropy ranking gives 20 percent each. Confidence ranking gives nearly zero to the first position and rises to about 45 percent at the last."}} tags=["hide-input"]
replace = tasks["Replace Random"]
figure, (ax,) = plots.panels(1, columns=1, height=2.6)
for shift, name in ((-0.2, "entropy"), (0.2, "confidence")):
    rule = singles[name]
    law = laws.answer_law(replace, masks(replace), rule).answers
    p = law.log_prob(replace.support).exp()
    color, text = plots.color(name), plots.label(name)
    ax.bar(np.arange(1, 6) + shift, p, 0.38, color=color, label=text)
plots.level(ax, 1 / 5, "joint")
ax.set(xlabel="position that is replaced", ylabel="probability")
_ = ax.legend()

# %% [markdown]
# **What this shows.** Validity and law are two questions. A benchmark that
# counts right answers cannot see that the answers have become less varied.
#
# **What it does not show.** That this bias hurts. If one good answer is all
# you want, an answer that is too typical may be just right.

# %% [markdown]
# ## What a call buys
#
# Now each rule runs through its parameter, from one token per step to all at
# once. At temperature 1 the distance from the joint is what counts.
#
# **Predict.** On copied pairs (a coin, its copy, the next coin, its copy, and
# so on: eight tokens), how many calls does each rule need to be exact? Does
# random order beat entropy order anywhere?


# %%
def sweep(joint):
    """KL and calls of each rule over its parameter, exact."""
    top_k = range(1, joint.length + 1)
    families = {
        "entropy": [strategies.entropy_top_k(k) for k in top_k],
        "confidence": [strategies.confidence_top_k(k) for k in top_k],
        "confidence_threshold": [
            strategies.confidence_threshold(g)
            for g in (0.3, 0.45, 0.55, 0.7, 0.85, 0.95)
        ],
        "factor": [strategies.factor(f) for f in (0.5, 1.0, 1.4, 1.9, 2.5)],
        "entropy_bounded": [
            strategies.entropy_bounded(g)
            for g in (0.0, 0.4, 0.6, 0.8, 1.2, 2.0, 3.0)
        ],
    }
    found = {}
    for name, rules in families.items():
        judged = [judge(joint, rule) for rule in rules]
        found[name] = [(used, divergence) for divergence, _, used in judged]
    found["random"] = [(joint.length, 0.0)]  # one at a time is exact
    for k in top_k[1:]:
        law = exact.random_top_k_law(joint, masks(joint), k)
        cost = exact.kl_divergence(joint, law)
        found["random"].append((math.ceil(joint.length / k), cost))
    # of several settings with the same number of calls keep the best
    return {
        name: {x: y for x, y in sorted(points, key=lambda p: (p[0], -p[1]))}
        for name, points in found.items()
    }


frontier = {name: sweep(joint) for name, joint in tasks.items()}

# %% mystnb={"figure": {"caption": "Distance from the joint against calls of the model, temperature 1; exact. Each point is a setting of a rule, the best one at its number of calls. No rule is at zero in fewer calls than EB (entropy-bounded). On the pairs and on the chain a random order beats every ranking at two and at three calls. Rules that rank drawn tokens (warm red, green, orange) may stay away from zero at any number of calls, and more calls may take them further away.", "name": "fig-kl-calls"}, "image": {"alt": "Four panels, Shuffle, Replace Random, copied pairs and chain, of KL against calls for six rules. The random order falls in all of them. On Replace Random confidence falls, then rises; on the pairs entropy and confidence jump up at four calls and reach zero at eight; on the chain confidence, threshold and factor rise to above three nats."}} tags=["hide-input"]
figure, axes = plots.panels(4, height=2.6)
for ax, (task, rules) in zip(axes, frontier.items()):
    for name, points in rules.items():
        x, y = points.keys(), points.values()
        mark = plots.marker(name)
        plots.exact(ax, list(x), list(y), name, marker=mark, alpha=0.85)
    ax.set(title=task, xlabel="calls")
for ax in axes[::2]:
    ax.set_ylabel("KL in nats")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %%
print("fewest calls on average with KL = 0")
for task, rules in frontier.items():
    best = {
        name: min((x for x, y in points.items() if y < 1e-9), default=None)
        for name, points in rules.items()
    }
    cells = [f"{plots.label(n)} {x:.2f}" for n, x in best.items() if x]
    print(f"{task}:\n    " + ",\n    ".join(cells))
print("KL in nats at each number of calls")
for task, rules in frontier.items():
    for name in ("random", "entropy", "confidence"):
        cells = [f"{x:.0f}: {y:.2f}" for x, y in sorted(rules[name].items())]
        print(f"{task:>15}, {name:>10}   " + "   ".join(cells))

# %% [markdown]
# **What this shows.** No rule is exact in fewer calls than the dependence
# demands: Shuffle needs one per token, whatever the rule. EB with budget zero
# is the safe saver: it adds tokens that are already certain. On copied pairs
# a threshold reveals a coin, then its copy, then the next coin; EB reveals
# the copy *with* the next coin.
#
# Between the two ends random order beats entropy order everywhere but on
# Shuffle, where both lose the same. On pairs and chain tokens with equal or
# nearly equal entropy are revealed side by side, and neighbors depend on each
# other most. On Replace Random all positions are alike; there a random order
# gains because it mixes many orders, and their errors cancel in part
# ([theorem](../book/theory_decoding.md)).
#
# More calls can make a ranking *worse*. Two at a time on the pairs is a coin
# with its copy each time, worse than three at a time. And from two calls on
# confidence moves away from the joint with every call more, on the chain and
# in Replace Random: each step is one more choice among drawn tokens.
#
# **What it does not show.** That EB is best on a learned model, where no
# prediction is certain and small errors add up.

# %% [markdown]
# ## Greedy decoding: how few calls can be right?
#
# At temperature 0 there is one answer, right or wrong.
#
# **Predict.** For each task: the fewest calls with which each family of rules
# finds a valid answer, over all its parameters. Can a rule solve Replace
# Random in fewer calls than it has items? Can any of them shuffle?

# %%
greedy_tasks = {
    "Copy 8": joints.copy(list(range(8))),
    "Shuffle 8": joints.shuffle(8),
    "Replace 8": joints.replace_random(8),
    "pairs 4": strategies_study.copied_pairs(4),
    "Sudoku": joints.sudoku(),
}
# dividing by 101 and by 10.01 keeps off edges such as 1/2, 7/8 and 3/2
families = {
    "left to right": [strategies.left_to_right(k) for k in range(1, 17)],
    "confidence": [strategies.confidence_top_k(k) for k in range(1, 17)],
    "threshold": [
        strategies.confidence_threshold(g) for g in np.arange(10, 101) / 101
    ],
    "factor": [strategies.factor(f) for f in np.arange(1, 60, 2) / 10.01],
    "EB": [
        strategies.entropy_bounded(g) for g in np.arange(0, 60, 2) / 10.01
    ],
}


def greedy_calls(joint, rules):
    """Fewest calls among the rules that answer correctly."""
    best = math.inf
    for rule in rules:
        out = generate(joint, masks(joint)[None], rule)
        if joint.log_prob(out.sequences).item() > -math.inf:
            best = min(best, out.nfe.item())
    return best


print(f"{'':>14}" + "".join(f"{name:>11}" for name in greedy_tasks))
table = {}
for name, rules in families.items():
    table[name] = [greedy_calls(j, rules) for j in greedy_tasks.values()]
    print(f"{name:>14}" + "".join(f"{n:11d}" for n in table[name]))

# %% [markdown]
# Shuffle: one call per item, for everyone. Two positions with the same
# prediction write the same token.
#
# Copied pairs look solved in one call, and this is a trap: greedy decoding
# answers "all zeros", valid and always the same.
#
# Replace Random separates the rules. Top-k needs the luck of the division:
# with $k = 7$ the last step is left with the one position that must change. A
# threshold takes all positions or one at a time. The *factor* rule reveals
# $m$ tokens only while $(m+1)(1 - c_{(m)}) < f$. With $f \le 1$ the
# probabilities of being wrong cannot add up to one, so what it reveals
# together is possible together: it keeps all items but two, and finishes
# these one by one.

# %%
print("Replace Random, greedy: valid? (calls)")
print(f"{'n':>3} {'threshold .9':>14} {'threshold .97':>14} {'factor 1':>10}")
for n in (4, 8, 16, 32, 64):
    joint, cells = joints.replace_random(n), []
    for rule in (
        strategies.confidence_threshold(0.9),
        strategies.confidence_threshold(0.97),
        strategies.factor(0.999),
    ):
        out = generate(joint, masks(joint)[None], rule)
        valid = joint.log_prob(out.sequences).item() > -math.inf
        cells.append(f"{'yes' if valid else 'no'} ({out.nfe.item()})")
    print(f"{n:3d} {cells[0]:>14} {cells[1]:>14} {cells[2]:>10}")

# %% [markdown]
# ## The threshold, in stairs
#
# **Predict.** Draw the accuracy of the threshold rule against $\gamma$ for
# Shuffle and for Replace Random with eight items, at temperature 1 and at
# temperature 0. Where does it jump, and how high?

# %%
n = 8
stairs = {
    "Shuffle": (joints.shuffle(n), laws.threshold_shuffle),
    "Replace Random": (
        joints.replace_random(n),
        laws.threshold_replace_random,
    ),
}
marks = (0.23, 0.3, 0.45, 0.55, 0.7, 0.8, 0.86, 0.92)
points = {
    (task, t): [
        measure.accuracy(
            joint.to(device),
            strategies.confidence_threshold(g),
            sizes.draws if t else 1,
            temperature=t,
            generator=generator,
        )
        for g in marks
    ]
    for task, (joint, _) in stairs.items()
    for t in (1.0, 0.0)
}

# %% mystnb={"figure": {"caption": "Accuracy and calls of the confidence threshold on eight items. Lines: closed forms. Points: 1000 answers each at temperature 1, seed 0, 95 % Wilson intervals (mean calls below); a greedy answer is one answer. Shuffle is solved above 1/2 at a call per item. Replace Random jumps at 7/8.", "name": "fig-threshold"}, "image": {"alt": "Four panels. Accuracy against gamma rises in stairs and jumps to one at one half for Shuffle and at seven eighths for Replace Random. Calls rise to eight at the same places."}} tags=["hide-input"]
grid = np.linspace(0.12, 0.999, 400)
looks = {
    1.0: ("confidence_threshold", "temperature 1"),
    0.0: ("ar", "greedy"),
}
figure, axes = plots.panels(4, height=2.3, sharex=True)
for column, (task, (_, closed)) in enumerate(stairs.items()):
    edge = 1 / 2 if task == "Shuffle" else (n - 1) / n
    lines = {
        1.0: [closed(n, g) for g in grid],
        0.0: [float(g > edge) for g in grid],
    }
    for t, (look, text) in looks.items():
        found = points[task, t]
        plots.exact(axes[column], grid, lines[t], look, label=text)
        rates = [f.rate for f in found]
        ends = np.transpose([f.interval for f in found])
        if t == 0:
            ends = (rates, rates)
        plots.measured(axes[column], marks, rates, ends, look, label=None)
        used = [f.nfe for f in found]
        axes[column + 2].plot(
            marks,
            used,
            plots.marker(look),
            color=plots.color(look),
            label=text,
        )
    axes[column].set_title(task)
    axes[column + 2].set_xlabel("gamma")
axes[0].set_ylabel("P(valid)")
axes[2].set_ylabel("calls")
_ = axes[0].legend(fontsize=9)

# %% [markdown]
# Shuffle: with $m$ items left every confidence is $1/m$. The rule goes one by
# one until $1/m \ge \gamma$ and then reveals the rest at once, so the stairs
# are $r!/r^r$ with $r = \lfloor 1/\gamma \rfloor$, and anything above one half
# is exact. Replace Random: above $7/8$ the rule pays eight calls, below it
# pays one when greedy. At temperature 1 the wrong step is a little less
# wrong, because positions that drew the new item wait.
#
# *At the edge itself* the rule "at least $\gamma$" reveals everything, and a
# strict rule would not. Rounding does not decide there: numbers that differ by
# less than their rounding count as equal.

# %% [markdown]
# ## When confidence is the right guide
#
# ParallelBench reports: on tasks with one right answer confidence beats a
# random order, on tasks with many answers random beats confidence. With exact
# predictions the first half cannot be seen, because a task with one answer is
# then solved by anything. The error must come from the model.
#
# So we limit the model. The *pencil-mark* denoiser knows the rules of Sudoku
# but does not think ahead: a cell may hold whatever its row, column and box do
# not show yet. The puzzles have one solution and no clue to spare.
#
# **Predict.** One cell per step, greedy: what share of the puzzles does a
# random order solve, what share confidence? And with four cells per step?

# %%
for row in strategies_study.sudoku(sizes.puzzles, (1, 4), SEED):
    low, high = study.wilson(row["successes"], row["draws"])
    rate = row["successes"] / row["draws"]
    name = plots.label(row["rule"])
    print(f"k = {row['setting']}, {name:>13}: {rate:6.1%}", end=" ")
    print(f"[{low:.1%}, {high:.1%}]")
grids = joints.sudoku().to(device)
puzzles, solutions = limited.unique_puzzles(grids, sizes.puzzles, generator)
full = generate(grids, puzzles, strategies.random_top_k(16))
assert bool((full.sequences == solutions).all())
print("the exact denoiser, everything in one step: 100 %")
rows = study.read_rows("strategies_exact")  # the same with more draws
print(f"full results: {len(rows)} rows, by {rows.attrs['command']}")

# %% mystnb={"figure": {"caption": "Sudoku of order 4 by pencil marks: share of puzzles solved against cells per step, greedy; 3000 puzzles, seed 0, 95 % Wilson intervals (smaller than the markers). Confidence fills the cells that are certain already, and each of them makes others certain.", "name": "fig-pencil"}, "image": {"alt": "Share solved against cells per step from 1 to 12. Confidence starts at 100 percent and falls; random and left to right start near 16 and 25 percent."}} tags=["hide-input"]
chosen = rows[rows.exhibit == "sudoku"]
figure, (ax,) = plots.panels(1, columns=1, height=2.8)
for rule, part in chosen.groupby("rule", sort=False):
    plots.measured(
        ax,
        part.setting,
        part.successes / part.draws,
        study.wilson(part.successes, part.draws),
        rule,
        linestyle="-",
    )
ax.set(xlabel="cells per step", ylabel="puzzles solved", ylim=(-0.03, 1.05))
_ = ax.legend()

# %% [markdown]
# The certain cells exist at every moment, and confidence finds them. A random
# order asks the model about cells that it cannot know yet. This may be the
# effect behind the deck's Sudoku slide: the *order* makes up for what the
# model has not learned to see at once (Kim, Shah et al. 2025 report a jump
# from below 7 % to about 90 % with margin ranking).

# %% [markdown]
# ## When a random order is better
#
# Now the exact denoiser of a Shuffle answer as it is really written: the items
# stand among tokens that are certain, such as commas, brackets and padding,
# 32 tokens in all.
#
# **Predict.** Confidence ranking, two tokens per step: what does it reveal
# first, and what is left for the end? Which order spreads the items better?

# %%
published = {  # percent of 100 prompts, Kang et al. 2025, LLaDA-1.5, Shuffle
    "random": [100, 81, 51, 24, 6, 1],
    "confidence": [100, 30, 27, 4, 3, 1],
}
ks = [1, 2, 4, 8, 16, 32]


def padded(k, valid, certain_first):
    """Mean over the list lengths of the benchmark."""
    values = [
        laws.padded_accuracy(
            items, 32, k, valid=valid, certain_first=certain_first
        )
        for items in (3, 4, 5, 6)
    ]
    return sum(values) / len(values)


def drawn(m, j):
    return math.perm(m, j) / m**j


def greedy(m, j):
    return float(j <= 1)


band = {
    name: [
        [padded(k, valid, name == "confidence") for k in ks]
        for valid in (greedy, drawn)
    ]
    for name in published
}

# %% mystnb={"figure": {"caption": "Shuffle among certain tokens, 32 in all, mean over lists of 3 to 6 items, against tokens per step. Bands: exact denoiser, closed form; upper edge with independent draws, lower edge greedy, where equal predictions write equal tokens. Points: LLaDA-1.5 at temperature 0 as published by Kang et al. 2025, 100 prompts each, 95 % Wilson intervals.", "name": "fig-padding"}, "image": {"alt": "Two bands, random above confidence, over 1 to 32 tokens per step. The published points of random order lie in or near the random band, those of confidence near the confidence band."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.2)
for name, (lower, upper) in band.items():
    plots.band(ax, ks, lower, upper, name)
    plots.exact(ax, ks, upper, name, label=None)
    plots.exact(ax, ks, lower, name, label=None, linestyle="--")
    ends = study.wilson(published[name], [100] * 6)
    plots.measured(ax, ks, np.array(published[name]) / 100, ends, name)
ax.set_xscale("log", base=2)
ax.set(xticks=ks, xlabel="tokens per step", ylabel="P(valid)")
ax.set_xticklabels(ks)
_ = ax.legend(title="order")

# %%
for name, percent in published.items():
    lower, upper = band[name]
    ends = np.transpose(study.wilson(percent, [100] * 6))
    inside = [
        low <= b and high >= a
        for (low, high), a, b in zip(ends, lower, upper)
    ]
    print(
        f"{name:>10}: greedy "
        + " ".join(f"{x:4.0%}" for x in lower)
        + ", drawn "
        + " ".join(f"{x:4.0%}" for x in upper)
    )
    print(
        f"{'':>10}  published, 95 % interval meets the band: "
        f"{sum(inside)} of {len(inside)}"
    )
p, q = (np.array(percent) for percent in published.values())
(p_low, p_high), (q_low, q_high) = (
    100 * np.array(study.wilson(percent, [100] * 6))
    for percent in published.values()
)
low = p - q - np.hypot(p - p_low, q_high - q)
high = p - q + np.hypot(p_high - p, q - q_low)
exactly = 100 * np.subtract(band["random"], band["confidence"])
print("advantage of the random order in points, 95 % Newcombe intervals")
for k, greedily, by_draws, gap, a, b in zip(ks, *exactly, p - q, low, high):
    print(
        f"k = {k:2d}: greedy {greedily:3.0f}, drawn {by_draws:3.0f}, "
        f"published {gap:3d} [{a:3.0f}, {b:3.0f}]"
    )

# %% [markdown]
# **What this shows.** Confidence spends its first steps on tokens that cost
# nothing, and then meets the items all together. A random order mixes them,
# so two items rarely share a step. The advantage of the random order needs no
# flaw of the model: it is there with exact predictions, at the same number of
# calls, and in the published direction. The published size lies between the
# exact ones of greedy and of drawn tokens at 2 and at 8 tokens per step, as
# far as the intervals tell; at 4 it is smaller than both. More generally,
# tokens that play the same role have the same confidence; a ranking puts them
# side by side, and side by side means in the same step.
#
# **What it does not show.** That LLaDA fails for this reason alone. It was run
# at temperature 0, where the exact confidence order is never right with two or
# more tokens per step; its errors break ties that are exact here. Its items are
# names of several tokens, its padding may end early, and at 4 tokens per
# step its confidence order does better than the exact one. And the remedy is
# not randomness: a rule that left certain tokens out of its quota would keep
# the order *and* spread the items.

# %% [markdown]
# ## What an oracle could reach
#
# Confidence is about one token; the price of a step is about several. Two
# tasks with the same predictions can differ in everything else: eight
# independent coins, or one coin written eight times. The *independence
# oracle* knows the joint. Of all ways to choose, at every state, tokens that
# are independent given what is revealed, it takes the one with the fewest
# calls on average. So it draws from the joint exactly. It chooses before the
# tokens are drawn, as entropy does. Confidence looks at the drawn tokens
# first, and so the oracle is no limit for it.
#
# **Predict.** Its mean number of calls on a copied list of eight, eight coins,
# one coin written eight times, four copied pairs, five items with one replaced,
# a shuffle of four. Which of our rules comes near?

# %%
coins = torch.tensor(list(itertools.product((0, 1), repeat=8)))
oracle_tasks = {
    "list of 8": joints.copy(list(range(8))),
    "8 coins": joints.TableJoint(coins, None, 2),
    "coin, 8 times": joints.TableJoint(coins[[0, -1]], None, 2),
    "4 copied pairs": strategies_study.copied_pairs(4),
    "replace 1 of 5": replace,
    "shuffle 4": joints.shuffle(4).table(),
}
candidates = {
    "one by one": strategies.left_to_right(1),
    "threshold .9": strategies.confidence_threshold(0.9),
    "EB 0": strategies.entropy_bounded(0.0),
}
print(f"{'mean calls':>16}{'oracle':>9}", end="")
print("".join(f"{name:>14}" for name in candidates))
for task, joint in oracle_tasks.items():
    cells = []
    for rule in candidates.values():
        divergence, _, used = judge(joint, rule)
        cells.append(f"{used:.2f}{'' if divergence < 1e-9 else '*'}")
    best = laws.oracle_nfe(joint)
    print(f"{task:>16}{best:9.2f}", end="")
    print("".join(f"{cell:>14}" for cell in cells))
print("* the law is not that of the joint")

# %% [markdown]
# The gap is widest where tokens are uncertain *and* independent: the coins
# cost one call, and a threshold above 1/2 and EB with budget zero pay eight.
# The coin written eight times begins with the same predictions, and there both
# are as fast as the oracle.
#
# ParallelBench has such an oracle too, per prompt: the lowest threshold that
# still answers right reaches 88 % at 13.5 tokens per step, the best fixed one
# 59 % at that speed. Can exact predictions show the same gap?
#
# **Predict.** A mixture of lists of several lengths: copy, coins, shuffle,
# replace one. Greedy. Will the best fixed threshold be right everywhere? At
# which speed, and how much faster is the best threshold per instance?


# %%
def coin_list(n):
    values = torch.tensor(list(itertools.product((0, 1), repeat=n)))
    return joints.TableJoint(values, None, 2)


makers = {
    "copy": lambda n: joints.copy(list(range(n))),
    "coins": coin_list,
    "shuffle": joints.shuffle,
    "replace": joints.replace_random,
}
gammas = [0.05, 0.3, 0.45, 0.55, 0.7, 0.78, 0.82, 0.86, 0.89, 0.95]
instances = [(make(n), n) for make in makers.values() for n in sizes.lists]
tokens = sum(n for _, n in instances)


def greedy_run(joint, rule):
    out = generate(joint, masks(joint)[None], rule)
    right = joint.log_prob(out.sequences).item() > -math.inf
    return right, out.nfe.item()


runs = np.array(
    [
        [
            greedy_run(joint, strategies.confidence_threshold(g))
            for g in gammas
        ]
        for joint, _ in instances
    ]
)  # [instances, gammas, (right, calls)]
fixed = runs[..., 0].mean(0), tokens / runs[..., 1].sum(0)
cheapest = np.where(runs[..., 0] > 0, runs[..., 1], np.inf).min(1)
per_instance = tokens / cheapest.sum()
others = {}
for name, rule in (
    ("factor", strategies.factor(0.999)),
    ("entropy_bounded", strategies.entropy_bounded(0.0)),
):
    right, used = np.transpose([greedy_run(j, rule) for j, _ in instances])
    others[name] = (right.mean(), tokens / used.sum())
right_speed = fixed[1][fixed[0] == 1].max()
near = np.abs(fixed[1] - per_instance).argmin()
print(f"{len(instances)} instances, {tokens} tokens, greedy, exact")
print(f"best fixed threshold that is always right: {right_speed:.2f} a call")
for name, (share, speed) in others.items():
    print(f"{plots.label(name)}: {share:.0%} at {speed:.2f}")
print(f"per instance: 100 % at {per_instance:.2f} tokens per call")
print(
    f"fixed threshold nearest to that speed: {fixed[0][near]:.0%} "
    f"at {fixed[1][near]:.2f}"
)

# %% mystnb={"figure": {"caption": "A mixture of copy, coins, shuffle and replace-one lists, greedy, exact denoisers: share answered right against tokens per call. The line is the fixed confidence threshold from high to low gamma; the star is the best threshold for each instance. Exact.", "name": "fig-oracle"}, "image": {"alt": "Share right against tokens per call. The line of fixed thresholds falls from one as it gets faster; the star of the per-instance oracle lies to the right of it at 100 percent; factor lies beyond the best fixed threshold."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.0)
plots.exact(
    ax, fixed[1], fixed[0], "confidence_threshold", marker="D", label="fixed"
)
for name, (share, speed) in others.items():
    plots.exact(
        ax, [speed], [share], name, marker=plots.marker(name), linestyle=""
    )
plots.exact(
    ax,
    [per_instance],
    [1.0],
    "oracle",
    marker="*",
    markersize=13,
    linestyle="",
    label="threshold per instance",
)
ax.set(xlabel="tokens per call", ylabel="answered right", ylim=(0.4, 1.05))
_ = ax.legend()

# %% [markdown]
# **What this shows.** The gap between a fixed and an oracle threshold needs
# no flaw of the model either. (Their numbers differ because their tasks do.)
# The factor rule with $f = 0.999$ is always right here, and faster than every
# fixed threshold that is: it asks how much certainty the *whole step* has. A
# fixed threshold must be high enough for the longest replace list, and then it
# crawls through the coins, where a low one was safe. No threshold can know: a
# coin and the last two items of a shuffle both have confidence 1/2, and only
# the coin may be drawn at once.
#
# **What it does not show.** How often real text is made of coins. The oracle
# here also knows the answer: it is no method.

# %% [markdown]
# ## What taking tokens back can repair
#
# Revision promises that a bad step is not final. With exact predictions one
# can say what it is worth: a token that is masked again is drawn from its
# exact conditional given the rest. If the rest is *possible*, the new token
# fits, and the error is repaired. If the rest is itself impossible (the other
# two copies of an item), there is no conditional to draw from; our denoisers
# then answer with the uniform distribution.
#
# The rules, each with a number of steps to spend:
#
# - *ReMDM* is ancestral sampling that masks revealed tokens again, with a
#   probability $\sigma$ up to what its schedule allows. *Cap* takes
#   $\eta = 0.1$ where that is allowed, *rescale* the part $\eta = 0.5$ of what
#   is allowed. *Conf* shares out all of it, and more to tokens of a low
#   confidence. *Loop* reveals most tokens, then masks again with $\eta = 0.1$
#   while the share of masks stands still, then finishes.
# - *RCR* fills every mask in every step and keeps the tokens that were drawn
#   with the highest confidence, more in each step.
# - *P2* does so too, but by the probability that the tokens have now; the
#   logarithm of a revealed one counts $\eta = 2$ times.
#
# **Predict.** Shuffle of six items at temperature 1. Rank these by accuracy at
# twelve steps: random top-k, ancestral, four kinds of ReMDM, RCR, P2. Does
# more remasking help?

# %%
live = strategies_study.revision(sizes.draws, (12,), SEED, ["Shuffle"])
print(f"Shuffle of 6, 12 steps allowed, n = {sizes.draws}, seed {SEED}")
for row in sorted(live, key=lambda row: -row["successes"]):
    low, high = study.wilson(row["successes"], row["draws"])
    rate = row["successes"] / row["draws"]
    print(
        f"{plots.label(row['rule']):>14}: {rate:6.1%} [{low:.1%}, {high:.1%}]"
        f"  {row['nfe']:5.1f} calls"
    )
for eta in (0.02, 0.1, 0.5):
    found = measure.accuracy(
        joints.shuffle(6).to(device),
        strategies.remdm_cap(schedules.Linear(), 12, eta=eta),
        sizes.draws,
        temperature=1.0,
        generator=torch.Generator().manual_seed(SEED),
    )
    print(f"ReMDM-cap with eta = {eta:.2f}: {found}")

# %% mystnb={"figure": {"caption": "Valid answers against calls of the model, temperature 1, with and without revision; 4000 answers a point, seed 0, 95 % Wilson intervals (smaller than the markers). A fixed quota (random, P2) is always valid once it reveals one token a step. From three steps on the ReMDM variants (eta 0.1, rescale 0.5) stay below plain ancestral sampling, which never takes a token back.", "name": "fig-revision"}, "image": {"alt": "Three panels, Shuffle, Replace Random and copied pairs, of accuracy against calls for eight rules. Random and P2 reach one; ancestral rises towards one; the ReMDM curves lie below it; RCR ends near zero on Shuffle."}} tags=["hide-input"]
chosen = rows[rows.exhibit == "revision"]
figure, axes = plots.panels(3, columns=1, height=2.4, sharex=True)
for ax, (task, part) in zip(axes, chosen.groupby("task", sort=False)):
    for rule, points_ in part.groupby("rule", sort=False):
        plots.measured(
            ax,
            points_.nfe,
            points_.successes / points_.draws,
            study.wilson(points_.successes, points_.draws),
            rule,
            linestyle=plots.dash(rule),
            linewidth=1.3,
        )
    ax.set(title=task, ylabel="P(valid)", ylim=(-0.04, 1.05))
    ax.set_xscale("log", base=2)
axes[-1].set_xlabel("calls")
axes[-1].set_xticks([1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 16, 32])
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %%
print("Shuffle of 6, 12 steps: how many answers passed through an impossible")
print("state, and how many of these were valid in the end")
part = chosen[(chosen.task == "Shuffle") & (chosen.setting == 12)]
for row in part.itertuples():
    repaired = row.repaired / row.broken if row.broken else 0.0
    print(
        f"{plots.label(row.rule):>14}: broken {row.broken / row.draws:6.1%}, "
        f"repaired {repaired:6.1%} of them"
    )
part = chosen.pivot_table(
    index=["task", "setting"], columns="rule", values="successes"
)
remdm = [c for c in part.columns if c.startswith("remdm")]
slow = part.reset_index().setting.to_numpy() >= 3
worse = (part[remdm].to_numpy() < part[["ancestral"]].to_numpy())[slow]
print(
    f"ReMDM below ancestral in {worse.sum()} of {worse.size} comparisons "
    "with 3 steps or more"
)

# %% [markdown]
# **What this shows.** First come the rules that reveal one token a step,
# random and P2, then ancestral sampling, then ReMDM, and RCR last. Remasking
# does repair: some broken answers become valid again, which without revision
# never happens. But each token that is masked again must be revealed again,
# and shares that step with others. With these $\eta$ all four variants lie
# below ancestral sampling on all three tasks, from three steps on, if at
# first by little: they break more than they repair. More remasking makes it
# worse: the larger $\eta$, the fewer answers of ReMDM-cap are valid, and with
# the smallest it comes near ancestral sampling. The steps are better spent on
# revealing fewer tokens at a time.
#
# RCR and P2 rank by confidence. Here they stand beside confidence ranking
# without any revision:

# %%
n = chosen.draws.iloc[0]
print(f"valid answers, n = {n}; confidence ranking exact, its KL in nats")
print(f"{'steps':>22}  random     RCR      P2  confidence    KL")
for task in ("Replace Random", "copied pairs"):
    joint = strategies_study.EXACT[task]()
    for steps in (2, 3, 4, 6):
        part = chosen[(chosen.task == task) & (chosen.setting == steps)]
        rates = dict(zip(part.rule, part.successes / part.draws))
        kl, valid, _ = judge(joint, strategies.confidence_top_k(steps=steps))
        cells = "".join(f"{rates[r]:8.1%}" for r in ("random", "rcr", "p2"))
        print(f"{task:>15} {steps:6d}{cells}{valid:12.1%}{kl:6.2f}")

# %% [markdown]
# RCR is as good as confidence ranking, to a point or so. On Replace Random
# both, and P2, fall far below the random order at two and three steps; at
# four, where the last item comes alone, they pass it, with a wrong law. On
# the pairs all three lose heavily to the random order.
#
# On Shuffle RCR fails for a reason of its own. It compares confidences from
# *different* steps. Early tokens had many rivals and so a low confidence;
# they are thrown out in favor of tokens drawn later *together*. Three items
# in three steps are valid half the time, where one by one is always right.
#
# **What it does not show.** That revision is useless. The gains reported for
# ReMDM come with learned predictions and more steps than tokens: there a
# revision can undo errors of the *model*, and nothing here has any.

# %% [markdown]
# **Predict.** WINO checks each revealed token against all others. Does it
# find the two copies in a broken shuffle? Does it also throw out good tokens?

# %%
six = joints.shuffle(6).table()
print("WINO at temperature 1: Shuffle of 6; Replace Random of 10")
for draft in (0.6, 0.3, 0.15):
    cells = []
    for joint in (joints.shuffle(6), joints.replace_random(10)):
        found = measure.accuracy(
            joint.to(device),
            strategies.wino(draft),
            sizes.draws,
            temperature=1.0,
            generator=generator,
        )
        cells.append(f"{found.rate:6.1%} valid, {found.nfe:.1f} calls")
    print(f"draft above {draft:.2f}: " + "; ".join(cells))
print(f"n = {sizes.draws} each, seed {SEED}")

broken = torch.tensor([[0, 1, 1, six.mask_id, six.mask_id, six.mask_id]])
for i in range(3):
    others = broken.clone()
    others[0, i] = six.mask_id
    p = six(others).exp()[0, i, broken[0, i]].item()
    print(f"state 0 1 1 _ _ _: token {i} given the others: {p:.3f}")

# %% [markdown]
# The check does find the copies: each has probability zero given the rest.
# The innocent first token gets 1/6, the uniform answer to an impossible
# question, which is below the bar too. On a *valid* but unfinished shuffle
# every token looks doubtful as well: with $r$ masks left it has probability
# $1/(r+1)$. The rule protects itself by taking back fewer tokens than it just
# accepted. With its published draft threshold of .6 it never drafts two items
# of a shuffle at once, and there is nothing to repair. On Replace Random it
# drafts what is kept, at most 70 % of what is open, and takes part of it back:
# right almost always, in more calls than the factor rule.

# %% [markdown]
# ## Blocks
#
# Semi-autoregressive decoding fills one block after the other. The total
# number of steps stays the same: shorter blocks get fewer steps each.
#
# **Predict.** Copied pairs, eight tokens in four steps. Do blocks of two help
# if each copy stands next to its coin? If it stands four places on? And what
# do blocks of one row do to the Sudoku solver?

# %% mystnb={"figure": {"caption": "Accuracy against block length at a fixed total number of steps (pairs: 8 tokens, 4 steps, temperature 1, n = 3000; Sudoku by pencil marks: one cell a step, greedy, n = 3000), seed 0, 95 % Wilson intervals. The rightmost point is decoding without blocks. On the pairs confidence coincides with left to right, because all its ties go to the left.", "name": "fig-blocks"}, "image": {"alt": "Three panels. Copy next to its coin: random rises with block length. Copy four places on: random falls with block length. Sudoku: confidence rises from 61 to 100 percent with block length."}} tags=["hide-input"]
chosen = rows[rows.exhibit == "blocks"]
figure, axes = plots.panels(3, columns=1, height=2.0)
for ax, (task, part) in zip(axes, chosen.groupby("task", sort=False)):
    for rule, points_ in part.groupby("rule", sort=False):
        plots.measured(
            ax,
            points_.setting,
            points_.successes / points_.draws,
            study.wilson(points_.successes, points_.draws),
            rule,
            linestyle=plots.dash(rule),
        )
    lengths = sorted(part.setting.unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, lengths)
    ax.set(title=task, ylabel="right", ylim=(-0.05, 1.08))
axes[-1].set_xlabel("block length")
_ = axes[0].legend(fontsize=9)

# %%
check = strategies_study.blocks(sizes.draws // 5, SEED)
for row in check:
    if row["task"] == "Sudoku" or row["rule"] != "random":
        continue
    low, high = study.wilson(row["successes"], row["draws"])
    rate = row["successes"] / row["draws"]
    print(
        f"{row['task']:>21}, blocks of {row['setting']}: {rate:6.1%} "
        f"[{low:.1%}, {high:.1%}], n = {row['draws']}"
    )

# %% [markdown]
# A block forces its tokens to share its steps. If dependence is local, as in
# text, short blocks with few steps put dependent tokens together and hurt; if
# it is far, they separate dependent tokens and help. For the solver, blocks
# take away the freedom to go where it is certain: the gain of confidence
# ranking shrinks with the block.

# %% [markdown]
# ## What we have seen
#
# - Any rule that chooses positions without looking at the drawn tokens is
#   exact at one token per step. Rules that rank drawn tokens are valid and
#   biased.
# - EB with budget zero saves calls at no cost; the factor rule with $f \le 1$
#   never writes an impossible answer; on Replace Random a threshold pays for
#   every token or for none.
# - Confidence is right when the *model* is limited and certainty grows from
#   step to step. A random order is right when many equal tokens depend on
#   each other. Both effects appear without any training.
# - An oracle that sees dependence needs far fewer calls wherever tokens are
#   uncertain but independent. Confidence cannot see this.
# - On three tasks, with exact predictions and $\eta$ of 0.1 and 0.5, ReMDM
#   breaks more than it repairs. RCR does what confidence ranking does, or
#   undoes a sound decoding.

# %% [markdown]
# ## Exercises
#
# **1. Your own rule in three lines.** On the chain neighbors depend on each
# other most. Write a strategy that reveals every second position first, then
# the rest, in two steps. Compare its divergence with left-to-right halves.

# %% [markdown] tags=["hide-cell"]
# **Solution.** Rank even positions above odd ones and reveal half the row. The
# even positions still depend on each other, but less, and given them the odd
# ones are independent: the second step costs nothing.


# %% tags=["hide-cell"]
def even_first(view):
    places = torch.arange(view.masked.shape[-1], device=view.masked.device)
    return -(places % 2.0).expand_as(view.masked)


comb = Strategy(
    "even first", even_first, lambda view, score: (view.size + 1) // 2
)
halves = strategies.left_to_right(3)
for rule in (comb, halves):
    divergence, _, used = judge(chain, rule)
    print(f"{rule}: KL {divergence:.4f} nats in {used:.0f} calls")

# %% [markdown]
# **2. The edge of the factor rule.** For which $f$ does the factor rule decode
# Shuffle one item at a time? Derive the edge, then check one value on each
# side.

# %% [markdown] tags=["hide-cell"]
# **Solution.** With $m$ items left all confidences are $1/m$, and two are
# revealed when $3(1 - 1/m) < f$. The left side is smallest at $m = 2$: the
# edge is $f = 3/2$.

# %% tags=["hide-cell"]
for f in (1.49, 1.51):
    _, valid, used = judge(joints.shuffle(4), strategies.factor(f))
    print(f"factor {f}: valid {valid:.4f}, {used:.0f} calls")

# %% [markdown]
# **3. Leave the certain tokens out.** Change confidence top-2 so that certain
# tokens do not count against the quota. What does it reach on a list of four
# items among four certain tokens, in how many calls?

# %% [markdown] tags=["hide-cell"]
# **Solution.** Reveal every certain position and *one* uncertain one. This is
# EB with budget zero, up to its order: exact, one call per item.

# %% tags=["hide-cell"]
orders_ = torch.tensor(list(itertools.permutations(range(4))))
padding = torch.full((len(orders_), 4), 4)
padded_list = joints.TableJoint(torch.cat([orders_, padding], 1), None, 5)
for rule in (
    strategies.confidence_top_k(2),
    Strategy(
        "certain and one",
        rank=lambda view: view.found.confidence,
        quota=lambda view, score: (
            (view.masked & (score > 1 - 1e-9)).sum(-1) + 1
        ),
    ),
    strategies.entropy_bounded(0.0),
):
    divergence, valid, used = judge(padded_list, rule)
    print(f"{rule}: valid {valid:.4f}, KL {divergence:.4f}, {used:.0f} calls")

# %% [markdown]
# **4. An oracle on paper.** Two independent shuffles of three items, one after
# the other. How many calls does the independence oracle need? And a threshold
# above one half?

# %% [markdown] tags=["hide-cell"]
# **Solution.** The oracle takes one item of each list per call: 3. The
# threshold goes one by one until one list has a single item left, which is
# certain, but certain tokens are revealed without an uncertain one: 6.

# %% tags=["hide-cell"]
triple = torch.tensor(list(itertools.permutations(range(3))))
both = torch.tensor([a + b for a in triple.tolist() for b in triple.tolist()])
lists = joints.TableJoint(both, None, 3)
_, _, used = judge(lists, strategies.confidence_threshold(0.6))
print(f"oracle {laws.oracle_nfe(lists):.0f}, threshold {used:.0f}")

# %% [markdown]
# ## The claims of this chapter
#
# What the deck says about decoding strategies, and what became of it here.
# The whole [ledger](../book/ledger.md) has one line for every claim.

# %%
ledger.table(chapter=4)
