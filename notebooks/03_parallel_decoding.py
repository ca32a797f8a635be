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
# # Parallel decoding ignores dependencies
#
# A diffusion language model is fast because it reveals several tokens per
# step. Each of them is drawn from its own distribution, as if the others of
# the same step did not exist. This chapter measures what that costs.
#
# **No network is trained here.** Every prediction comes from a *joint*: a
# distribution over sequences that we know completely, so that the probability
# of each masked token given the revealed ones is exact. Whatever goes wrong is
# *decoding error*, and no amount of training would mend it.
#
# Definitions and proofs are on the page
# [Parallel decoding: what it costs](../book/theory_parallel.md). Logarithms
# are natural: costs are in nats unless bits are named. In figures a line is
# exact, and points with bars are measured.

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/03_parallel_decoding.ipynb)

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
import numpy as np
import torch
from scipy.optimize import brentq

from dllm_tutorial import (
    config,
    exact,
    joints,
    ledger,
    measure,
    orders,
    plots,
    study,
)
from dllm_tutorial.decoding import strategies
from dllm_tutorial.denoiser import NoisyDenoiser

torch.set_num_threads(1)
plots.style()
sizes = config.load("03_parallel_decoding", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
generator = torch.Generator().manual_seed(SEED)


def masks(joint):
    return torch.full((joint.length,), joint.mask_id)


# %% [markdown]
# ## New City
#
# *Pick a random city: New York, New Orleans, Mexico City or Panama City.*
# The answer has two words. Four answers, equally likely.
#
# **Predict.** Both words are drawn at once, each from its exact distribution.
# How often is the answer not a city? And what does greedy decoding, which
# takes the most probable word at each place, answer?

# %%
city = joints.cities()
at_once = exact.parallel_law(city, masks(city), [[0, 1]])
one_by_one = exact.parallel_law(city, masks(city), [[0], [1]])
for name, law in [("one by one", one_by_one), ("both at once", at_once)]:
    valid = exact.valid_probability(city, law)
    print(f"{name:>12}: a city with probability {valid:.4f}")

greedy = city(masks(city)[None]).argmax(-1)[0]
print("greedy, both at once:", city.text(greedy))

# %% mystnb={"figure": {"caption": "Probability of each pair of words, exact. Left: the four cities, as decoding one word at a time draws them. Right: both words at once. The product of the marginals puts half of its mass on pairs that are no city, and New City is the most probable answer of all.", "name": "fig-new-city"}, "image": {"alt": "Two heat maps of first word against second word. The left one has four cells of 25 percent. The right one spreads over all nine cells; New City has 25 percent."}} tags=["hide-input"]
first, second = ["New", "Mexico", "Panama"], ["York", "Orleans", "City"]
pairs = torch.tensor(
    [
        [city.words.index(a), city.words.index(b)]
        for a in first
        for b in second
    ]
)
figure, axes = plots.panels(2, height=2.7, sharey=True)
titles = ["one by one", "both at once"]
for ax, law, title in zip(axes, [one_by_one, at_once], titles):
    p = law.log_prob(pairs).exp().view(3, 3)
    ax.imshow(p, vmin=0, vmax=0.45, cmap="Blues")
    ax.set(title=title, xticks=range(3), yticks=range(3))
    ax.set_xticklabels(second)
    ax.set_yticklabels(first)
    ax.grid(False)
    for i, j in np.ndindex(3, 3):
        ax.text(j, i, f"{p[i, j]:.1%}", ha="center", va="center")

# %% [markdown]
# Half of the answers are no city: the prediction "New" for the first word and
# the prediction "City" for the second are both right, and their combination
# is not. Greedy decoding is worse, because "New" and "City" are each the most
# probable word at their place: it answers *New City* every time.
#
# A sampler should agree with the enumeration.

# %%
for k, name in [(1, "one by one"), (2, "both at once")]:
    rule = strategies.left_to_right(k)
    for temperature in (1.0, 0.0):
        found = measure.accuracy(
            city.to(device),
            rule,
            sizes.draws,
            temperature=temperature,
            generator=generator,
        )
        print(f"{name:>12}, temperature {temperature:.0f}: {found}")
print(f"n = {sizes.draws} answers each, seed {SEED}, 95 % Wilson intervals")

# %% [markdown]
# **What this shows.** Parallel decoding draws from the product of the
# marginals, and nothing in the predictions is at fault. An autoregressive
# model, which draws the second word after it has seen the first, does not
# have the problem; nor does a diffusion model that reveals one token at a time.
#
# **What it does not show.** How often real text is like this. Inside "New
# York" the words depend strongly on each other; two words far apart may not.

# %% [markdown]
# ## Shuffle A, B, C
#
# *Shuffle the items A, B, C.* Every position is A, B or C with probability
# one third each.
#
# **Predict.** All three positions are drawn at once. How often does the answer
# hold all three items?

# %%
three = joints.shuffle(3)
law = exact.parallel_law(three, masks(three), [[0, 1, 2]])
kinds = torch.tensor([len(set(row)) for row in law.support.tolist()])
for kind in (3, 2, 1):
    p = law.probs[kinds == kind].sum()
    print(f"{kind} different items: {p:.4f}")
print(f"3/3 x 2/3 x 1/3    = {exact.shuffle_accuracy(3, 3):.4f}")

unchanged = torch.tensor([[0, 1, 2]])
p = exact.valid_probability(three, law) - law.log_prob(unchanged).exp().item()
print(f"valid and not the order of the question: {p:.4f} = 5/27")

# %% [markdown]
# The slide's 22.2 % is exact. The last line is a detail of the benchmark: its
# scorer also rejects the order in which the items were given, so on three
# items one step reaches 18.5 % at most. Compare scores only after checking
# what they count.

# %% [markdown]
# ## What a step costs, exactly
#
# Let $p$ be the joint and $q$ the law of what the decoder writes when it
# reveals the blocks $B_1, B_2, \dots$ one after the other, each at once. The
# *total correlation* of a block is what its tokens have in common: the sum of
# their entropies minus their joint entropy, given what is already revealed. The
# [theorem](../book/theory_parallel.md) says
#
# $$\mathrm{KL}(p \,\|\, q) = \sum_t C(B_t \mid B_{<t}).$$
#
# **Predict.** Take some joints of four tokens and *all* 75 ways to decode them
# in blocks. The left side is computed by enumerating what the decoder writes,
# the right side from entropies. How far apart can they be? And is it only the
# number of steps that matters?

# %%
uneven = torch.tensor(
    [[0.80, 0.15, 0.05], [0.10, 0.70, 0.20], [0.25, 0.05, 0.70]]
)
examples = {
    "Shuffle": joints.shuffle(4),
    "Replace Random": joints.replace_random(4),
    "Markov chain": joints.MarkovChain(uneven, 4),
    "Copy": joints.copy([2, 0, 1, 1]),
}
costs, report = {}, []
for name, joint in examples.items():
    rows = []
    for blocks in exact.ordered_partitions(range(4)):
        q = exact.parallel_law(joint, masks(joint), blocks)
        entropies = sum(exact.step_costs(joint, blocks))
        divergence = exact.kl_divergence(joint, q)
        rows.append((len(blocks), entropies, divergence))
    costs[name] = np.array(rows)
    gap = np.abs(costs[name][:, 1] - costs[name][:, 2]).max()
    assert gap < 1e-10
    report.append(f"{name:>15}: {len(rows)} ways, equal within 1e-10")
print("\n".join(report))

# %% mystnb={"figure": {"caption": "Divergence of the decoded from the true distribution against the number of steps, for all 75 ways to decode four tokens in blocks. Exact. Each cross is one way, the line joins the best ones: it never rises and reaches zero at one token a step. For the Markov chain the choice of the blocks matters as much as their number.", "name": "fig-partitions"}, "image": {"alt": "Four panels, Shuffle, Replace Random, Markov chain and Copy: cost in nats against one to four steps. Costs fall to zero at four steps; Copy costs zero everywhere."}} tags=["hide-input"]
figure, axes = plots.panels(4, height=2.1, sharex=True)
for ax, (name, rows) in zip(axes, costs.items()):
    steps, cost = rows[:, 0], rows[:, 2]
    best = [cost[steps == t].min() for t in (1, 2, 3, 4)]
    ax.plot([1, 2, 3, 4], best, color=plots.BLACK)
    ax.plot(steps, cost, "x", color=plots.BLUE)
    ax.set(
        title=name, xticks=[1, 2, 3, 4], ylim=(-0.1, max(best[0], 1) * 1.1)
    )
for ax in axes[2:]:
    ax.set_xlabel("steps")
for ax in axes[::2]:
    ax.set_ylabel("KL in nats")

# %% [markdown]
# The two sides are equal. For Shuffle only the sizes of the blocks matter,
# because its positions are all alike. In the Markov chain neighbors depend on
# each other and distant tokens hardly do, so *which* tokens go together
# matters.
#
# **Predict.** A chain of four states, each kept with probability 0.7. At equal
# block size, which is best: blocks of neighbors, random blocks, or blocks
# whose tokens lie as far apart as possible?

# %%
length = sizes.chain
sticky = torch.full((4, 4), 0.1, dtype=torch.float64).fill_diagonal_(0.7)
chain = joints.MarkovChain(sticky, length)
schemes = {
    "left_to_right": orders.left_to_right(length),
    "random": orders.random_order(length, generator),
    "dilated": orders.bit_reversed(length),
}
names = {
    "left_to_right": "neighbors",
    "random": "a random set",
    "dilated": "far apart",
}
tokens = [2**j for j in range(length.bit_length())]
chain_cost = {
    key: [sum(exact.step_costs(chain, exact.blocks_of(o, k))) for k in tokens]
    for key, o in schemes.items()
}
print(f"entropy of the chain: {chain.entropy():.2f} nats")
for key, values in chain_cost.items():
    listed = " ".join(f"{abs(value):6.2f}" for value in values)
    print(f"{names[key]:>13}: {listed}")

# %% mystnb={"figure": {"caption": "Cost of decoding a Markov chain against tokens per step: divergence in nats, exact, for one random order (seed 0). Blocks of tokens that lie far apart are almost free up to 8 of 32 tokens.", "name": "fig-spacing"}, "image": {"alt": "Three rising curves of cost in nats against tokens per step. Neighbors cost most, a random set less, tokens far apart least; all meet when everything is revealed in one step."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.2)
for key, values in chain_cost.items():
    plots.exact(ax, tokens, values, key, label=names[key], marker="o")
ax.set_xscale("log", base=2)
ax.set(xlabel="tokens per step", ylabel="KL in nats", xticks=tokens)
ax.set_xticklabels(tokens)
_ = ax.legend(title="revealed together")

# %% [markdown]
# **What this shows.** The number of tokens per step does not set the price
# alone; the dependence among the tokens revealed together does. Of the three,
# left-to-right blocks, the natural choice for text, cost the most.
#
# **What it does not show.** That a model can *learn* the conditionals of
# scattered tokens as easily as those of the next one. That is the subject of
# the later chapters on orders.

# %% [markdown]
# ## Closed forms
#
# Two list tasks have formulas for every list length $n$ and every $k$, the
# number of tokens per step.
#
# - *Shuffle*: all orders of $n$ items. With $m$ items left, the next $k$ draws
#   are all different with probability $m!/((m-k)!\,m^k)$; multiply over steps.
# - *Replace Random*: the $n$ items in their order, exactly one of them replaced
#   by a new one. One step succeeds with $((n-1)/n)^{n-1}$.
#
# **Predict.** Let $n$ grow. Which task becomes hopeless in one step, and which
# levels off, and where? At $k = 2$, does Replace Random get harder or easier?

# %%
tasks = {
    "Shuffle": (joints.shuffle, exact.shuffle_accuracy),
    "Replace Random": (joints.replace_random, exact.replace_random_accuracy),
}
shown = {"1": plots.BLACK, "2": plots.BLUE, "4": plots.GREEN, "n": plots.RED}
points = {}
for name, (make, _) in tasks.items():
    for key in shown:
        for n in sizes.lists:
            k = n if key == "n" else int(key)
            points[name, key, n] = measure.accuracy(
                make(n).to(device),
                strategies.random_top_k(k),
                sizes.draws,
                temperature=1.0,
                generator=generator,
            )

# %% mystnb={"figure": {"caption": "Probability of a valid answer against the length of the list, temperature 1, random top-k. Lines: closed forms, at multiples of k. Points: 2000 answers each, seed 0, 95 % Wilson intervals. Shuffle dies out for every k above 1; Replace Random in one step levels off at 1/e, and gets easier with n at fixed k.", "name": "fig-closed-forms"}, "image": {"alt": "Two panels of accuracy against list length from 2 to 16 for 1, 2, 4 and n tokens per step. Measured points lie on the lines."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.2, sharey=True)
for ax, (name, (_, formula)) in zip(axes, tasks.items()):
    for key, color in shown.items():
        k = None if key == "n" else int(key)
        grid = [n for n in range(2, 17) if k is None or n % k == 0]
        line = [formula(n, k or n) for n in grid]
        ax.plot(grid, line, color=color)
        found = [points[name, key, n] for n in sizes.lists]
        low, high = np.transpose([f.interval for f in found])
        plots.measured(
            ax,
            sizes.lists,
            [f.rate for f in found],
            (low, high),
            "random",
            color=color,
            label=f"k = {key}",
        )
    ax.set(title=name, xlabel="list length n", ylim=(-0.03, 1.05))
    ax.set_xticks([4, 8, 12, 16])
axes[0].set_ylabel("P(valid)")
plots.level(axes[1], 1 / np.e, "1/e", above=False)
_ = axes[0].legend(ncols=2, fontsize=9)

# %%
print(
    "  n   Shuffle C/bits   k = n    k = 2 | Replace C/bits   k = n    k = 2"
)
for n in (4, 6, 10, 16):
    cells = []
    for make, formula in tasks.values():
        bits = make(n).total_correlation() / np.log(2)
        cells.append(
            f"{bits:10.3f} {formula(n, n):12.3%} {formula(n, 2):8.2%}"
        )
    print(f"{n:3d}   " + " |".join(cells))

# %% [markdown]
# For Shuffle the cost $C = n \log n - \log n!$ grows by about one nat per
# item, and the accuracy is exactly $e^{-\text{cost}}$. For Replace Random it
# stays below one nat. Two of its positions collide only when both draw the new
# item, which grows rare: at $k = 2$ longer lists are *easier*.
#
# In general accuracy is at least $e^{-\mathrm{KL}}$, with equality when all
# valid answers keep their proportions. Several steps of Replace Random are a
# case where the two differ (exercise 4).

# %% [markdown]
# ## What costs nothing, and what cannot be saved
#
# Nine tasks of 16 tokens or cells. For each: the entropy $H$ of the valid
# answers, their total correlation $C$, and the accuracy with $k$ tokens per
# step in a random order at temperature 1.
#
# **Predict.** Sort the tasks before you look: Copy, Reverse, Sort, Replace
# Index, Replace Random, Shuffle, Latin square, Sudoku from an empty grid,
# Sudoku with so many numbers given that one solution is left.

# %%
items = torch.randperm(16, generator=generator).tolist()
sudoku = joints.sudoku()
puzzle = sudoku.support[0].clone()
puzzle[[0, 5, 10, 15]] = sudoku.mask_id  # four blanks, one solution
catalog = {
    "Copy": joints.copy(items),
    "Reverse": joints.reverse(items),
    "Sort": joints.sort(items),
    "Replace Index": joints.replace_index(items, 3, 16),
    "Sudoku, 4 blanks": sudoku.condition(puzzle),
    "Replace Random": joints.replace_random(16),
    "Shuffle": joints.shuffle(16),
    "Latin square": joints.latin_square(4),
    "Sudoku, empty": sudoku,
}
ks = (1, 2, 4, 8, 16)
print(f"{'':>16}  H/bits  C/bits   accuracy at k = 1, 2, 4, 8, 16")
table = {}
for name, joint in catalog.items():
    table[name] = [
        measure.accuracy(
            joint.to(device),
            strategies.random_top_k(k),
            sizes.draws // 2,
            temperature=1.0,
            generator=generator,
        )
        for k in ks
    ]
    h, c = joint.entropy() / np.log(2), joint.total_correlation() / np.log(2)
    listed = " ".join(f"{found.rate:6.1%}" for found in table[name])
    print(f"{name:>16}  {h:6.2f}  {c:6.2f}   {listed}")

# %% mystnb={"figure": {"caption": "Probability of a valid answer against tokens per step, exact conditionals, random top-k, temperature 1; 1000 answers a point, seed 0, 95 % Wilson intervals. Tasks with one right answer are free at any speed. Where the tokens of an answer depend on each other, speed costs right answers.", "name": "fig-tasks"}, "image": {"alt": "Accuracy against 1, 2, 4, 8, 16 tokens per step. One flat line at 100 percent for tasks with one answer; Replace Random falls to about 40 percent; Shuffle, Latin square and Sudoku fall to zero."}} tags=["hide-input"]
drawn = {
    "Copy": "Copy, Reverse, Sort,\nReplace Index, 4 blanks",
    "Replace Random": "Replace Random",
    "Latin square": "Latin square",
    "Sudoku, empty": "Sudoku, empty",
    "Shuffle": "Shuffle",
}
figure, (ax,) = plots.panels(1, columns=1, height=4.0)
marks = "osD^v"
for (name, text), mark in zip(drawn.items(), marks):
    found = table[name]
    interval = np.transpose([f.interval for f in found])
    rates = [f.rate for f in found]
    color = ax._get_lines.get_next_color()
    plots.measured(
        ax,
        ks,
        rates,
        interval,
        "random",
        label=text,
        marker=mark,
        color=color,
        linestyle=":",
    )
ax.set_xscale("log", base=2)
ax.set(xlabel="tokens per step", ylabel="P(valid)", xticks=ks)
ax.set_xticklabels(ks)
_ = figure.legend(fontsize=9, loc="outside lower center", ncols=2)

# %% [markdown]
# What divides the tasks is not how hard they look. Sorting is work for a
# person and free for the decoder, because there is *one* right answer: a model
# that knows it can write all tokens at once. Choosing an order at random is
# easy for a person, but the choices must know of each other.
#
# The deck's figure of a commercial diffusion model agrees: Reverse stays near
# 100 % as lists grow, Shuffle falls. For an autoregressive model both tasks
# have cost zero, one token at a time. If it loses accuracy on Reverse, as the
# figure says, that is an error of *learning*; decoding cannot be blamed.

# %%
print("KL in nats of decoding one token at a time, exact:")
for name, joint in {**examples, "Sudoku": sudoku}.items():
    row = []
    for order in (
        orders.left_to_right(joint.length),
        orders.right_to_left(joint.length),
        orders.random_order(joint.length, generator),
    ):
        row.append(sum(exact.step_costs(joint, exact.blocks_of(order, 1))))
    print(f"{name:>15}: left to right, right to left, random:", end=" ")
    print(" ".join(f"{abs(cost):.4f}" for cost in row))

# %% [markdown]
# One token at a time is exact in *every* order when the conditionals are
# exact. The order matters for parallel decoding, and for learning.

# %% [markdown]
# ## An open question: greedy Shuffle
#
# Now temperature 0. The ParallelBench paper says in its text that the closed
# form of Shuffle also holds for greedy decoding, which gives 31 % at $n = 6$
# and 20 % at $n = 16$ for $k = 2$. Its plot for two tokens per step shows about
# 3 % falling to 1 % over $n = 6, \dots, 16$ (read off by eye). Both cannot be
# right. With exact conditionals we can settle it.
#
# **Predict.** All unused items are equally probable at every masked position.
# What does greedy decoding write, two positions at a time?

# %%
rules = {
    "random": strategies.random_top_k,
    "left to right": strategies.left_to_right,
    "confidence": strategies.confidence_top_k,
    "entropy": strategies.entropy_top_k,
}
six = joints.shuffle(6).to(device)
print("greedy Shuffle, n = 6, exact conditionals, 200 answers each")
for name, rule in rules.items():
    found = [measure.accuracy(six, rule(k), 200) for k in (1, 2, 3, 6)]
    listed = " ".join(f"{f.rate:4.0%}" for f in found)
    print(f"{name:>14}: k = 1, 2, 3, 6: {listed}")
closed = " ".join(
    f"{exact.shuffle_accuracy(6, k):4.0%}" for k in (1, 2, 3, 6)
)
print(f"{'closed form':>14}:              {closed}")

# %% [markdown]
# Zero, for every rule. The tie among the unused items is exact, all masked
# positions have the same distribution, and one shared rule ("lowest id first")
# makes them choose *the same* item. Repeated items, invalid answer.
#
# So who gets the closed form? A decoder whose positions break their ties
# *independently*: a uniform choice among equals is a draw at temperature 1. A
# trained network does neither. Its logits for the unused items differ by small
# errors, and these errors are correlated between positions: a network that
# slightly prefers "Bob" prefers it everywhere.
#
# Model that: add Gaussian errors to the exact logits, with correlation $\rho$
# between positions. Only the *order* of the noisy logits counts, so the size of
# the errors drops out. For $k = 2$ the accuracy is an integral
# ([proposition](../book/theory_parallel.md)).
#
# **Predict.** How large must $\rho$ be to bring 31 % down to 3 %?

# %%
lengths = (6, 16)
noisy = {}
for n in lengths:
    joint = joints.shuffle(n).to(device)
    for rho in sizes.rhos:
        denoiser = NoisyDenoiser(joint, 1e-3, rho, generator)
        noisy[n, rho] = measure.accuracy(
            joint,
            strategies.random_top_k(2),
            sizes.draws,
            denoiser=denoiser,
            generator=generator,
        )


def implied(n, accuracy):
    """The correlation at which greedy Shuffle, k = 2, has this accuracy."""
    return brentq(
        lambda rho: exact.greedy_shuffle_accuracy(n, rho) - accuracy,
        0,
        0.9999,
    )


rho6, rho16 = implied(6, 0.03), implied(16, 0.01)
print(f"n = 6:  3 % needs a correlation of {rho6:.2f}")
print(f"n = 16: 1 % needs a correlation of {rho16:.2f}")
same = exact.greedy_shuffle_accuracy(16, rho6)
print(f"n = 16 with the correlation of n = 6: {same:.2%}")
print("if each point is a share of 100 answers, with 95 % Wilson intervals:")
for n, percent in ((6, 3), (16, 1)):
    low, high = study.wilson(percent, 100)
    print(
        f"n = {n:2}: {percent} % [{low:.1%}, {high:.1%}], correlation "
        f"from {implied(n, high):.2f} to {implied(n, low):.2f}"
    )

# %% mystnb={"figure": {"caption": "Greedy Shuffle at two tokens per step when noise breaks the ties, against the correlation of the noise between positions. Lines: quadrature, exact to six digits. Points: 2000 answers each, seed 0, 95 % Wilson intervals. At 0 the closed form of temperature 1, at 1 nothing; the published 3 % and 1 % lie between.", "name": "fig-greedy-shuffle"}, "image": {"alt": "Accuracy on a logarithmic scale against correlation from 0 to 1 for n = 6 and n = 16. Both curves fall from the closed form at zero correlation toward zero at one."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.4)
grid = np.linspace(0, 0.98, 50)
for n, color, mark in zip(lengths, (plots.BLUE, plots.RED), "os"):
    line = [exact.greedy_shuffle_accuracy(n, rho) for rho in grid]
    ax.plot(grid, line, color=color)
    found = [noisy[n, rho] for rho in sizes.rhos]
    plots.measured(
        ax,
        sizes.rhos,
        [f.rate for f in found],
        np.transpose([f.interval for f in found]),
        "random",
        color=color,
        marker=mark,
        label=f"n = {n}",
    )
ax.plot(
    [rho6, rho16],
    [0.03, 0.01],
    "*",
    color=plots.BLACK,
    markersize=11,
    label="read off the plot",
)
ax.set_yscale("log")
ax.set(xlabel="correlation of the errors between positions")
ax.set(ylabel="P(valid)", ylim=(2e-4, 0.6))
_ = ax.legend()

# %% [markdown]
# **Settled.**
#
# 1. With exact conditionals and one tie rule for all positions, greedy Shuffle
#    is right with probability 0 as soon as two tokens are revealed together.
# 2. The paper's sentence is true only if every position breaks its tie by a coin
#    of its own.
# 3. Its plot is neither. It is what tie-breaking noise would give that is
#    shared to a large part. Taken at face value the two ends need different
#    correlations, about 0.8 at $n = 6$ and 0.6 at $n = 16$. But they are read
#    by eye, and from few answers: with 100 a point their intervals overlap,
#    and one correlation for both is not excluded.
#
# **What it does not show.** What breaks the ties in their network. Errors that
# persist from step to step, or that differ between pairs of positions, would
# give other curves; the plot has too few numbers to tell.
#
# The same question hides in Replace Random: the value 0.5 that the paper gives
# for $k = 2$ at temperature 0 again needs two independent coins (exercise 3).

# %% [markdown]
# ## The claims of this chapter

# %%
ledger.table(3)

# %% [markdown]
# ## Exercises
#
# **1. Odd lists.** At $k = 2$ Shuffle is right in 37.5 % of the cases for
# $n = 4$ and in 53.3 % for $n = 5$. Why is the longer list easier? Which order
# of block sizes would be best for $n = 5$ in three steps?

# %% [markdown] tags=["hide-cell"]
# **Solution.** Five items take steps of 2, 2, 1 tokens. A step of two with $m$
# items left succeeds with $(m-1)/m$. Here $m = 5$ and $3$:
# $\frac45 \cdot \frac23 = \frac8{15}$; the last token is alone and certain. Four
# items meet $m = 4$ and $2$: $\frac34 \cdot \frac12$. The dangerous step is the
# last one, when few items are left. So put the single token last: the orders
# 2, 2, 1 and 2, 1, 2 and 1, 2, 2 give $\frac45\cdot\frac23$,
# $\frac45\cdot\frac12$ and $\frac34\cdot\frac12$.

# %% tags=["hide-cell"]
five = joints.shuffle(5)
for blocks in (
    [[0, 1], [2, 3], [4]],
    [[0, 1], [2], [3, 4]],
    [[0], [1, 2], [3, 4]],
):
    q = exact.parallel_law(five, masks(five), blocks)
    print([len(b) for b in blocks], f"{exact.valid_probability(five, q):.4f}")

# %% [markdown]
# **2. The scorer.** What is the ceiling of one-step decoding for $n$ items if
# the order of the question is rejected? Is it still noticeable at $n = 6$?

# %% [markdown] tags=["hide-cell"]
# **Solution.** One of the $n!$ valid orders is lost: $(n! - 1)/n^n$. At $n = 3$
# this is $5/27$ instead of $6/27$; at $n = 6$ it is $719/46656 = 1.541\,\%$
# instead of $1.543\,\%$.

# %% [markdown]
# **3. Two coins.** Decode Replace Random greedily, $n = 6$, two tokens a step,
# once with exact conditionals and once with independent noise. Explain both
# numbers.

# %% [markdown] tags=["hide-cell"]
# **Solution.** Until two positions are left each one prefers its own item
# ($\frac56$, then $\frac34$), so greedy decoding copies. The last two positions
# are tied between their own item and the new one. A shared rule makes both copy
# or both replace: never valid. Independent noise makes two coins of it: valid in
# half of the cases, the published 0.5.

# %% tags=["hide-cell"]
replace = joints.replace_random(6).to(device)
coins = NoisyDenoiser(replace, 1e-3, 0.0, generator)
pair = strategies.random_top_k(2)
print("exact:", measure.accuracy(replace, pair, 200))
found = measure.accuracy(
    replace, pair, sizes.draws, denoiser=coins, generator=generator
)
print("noisy:", found)

# %% [markdown]
# **4. Accuracy is not $e^{-\mathrm{KL}}$.** Decode Replace Random with $n = 4$ in
# two blocks of two. Compare the accuracy with $e^{-\mathrm{KL}}$, and look at the
# law of the *valid* answers. What do you see?

# %% [markdown] tags=["hide-cell"]
# **Solution.** The accuracy is larger. Among the valid answers those whose new
# item stands in the first block are too frequent: the second block has to copy
# nothing wrong *and* replace exactly one of two, which is harder. Accuracy asks
# only whether an answer is valid, the divergence also sees the shift.

# %% tags=["hide-cell"]
replace = joints.replace_random(4)
q = exact.parallel_law(replace, masks(replace), [[0, 1], [2, 3]])
bound = np.exp(-exact.kl_divergence(replace, q))
accuracy = exact.valid_probability(replace, q)
print(f"accuracy {accuracy:.4f}, exp(-KL) {bound:.4f}")
p = q.log_prob(replace.support).exp()
print("valid answers:", " ".join(f"{v:.3f}" for v in (p / p.sum()).tolist()))

# %% [markdown]
# **5. The best two steps.** For a Markov chain of 8 tokens, find the best way to
# decode in two steps by trying all of them. What does it look like?

# %% [markdown] tags=["hide-cell"]
# **Solution.** One guess is every second token first, then the ones between:
# with both neighbors known, the second step is free, and the whole price is
# paid in the first one. It is not the best. Tokens 1, 4, 6 first, or their
# mirror image, are farther apart; then the second step has to reveal one pair of
# neighbors at once, which costs less than was saved.

# %% tags=["hide-cell"]
eight = joints.MarkovChain(sticky, 8)
found = []
for bits in range(1, 255):
    first = [i for i in range(8) if bits >> i & 1]
    rest = [i for i in range(8) if i not in first]
    found.append((first, exact.step_costs(eight, [first, rest])))
found.sort(key=lambda pair: round(sum(pair[1]), 9))
for first, (one, two) in [
    *found[:2],
    *(f for f in found if f[0] == [0, 2, 4, 6]),
]:
    print(f"first {first}: {one:.4f} + {abs(two):.4f} = {one + two:.4f} nats")
