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
# # Why order matters
#
# A model with exact conditionals gives a sequence the same probability in
# every order. So if one order is easier than another, some *limit* of the
# model is at work. The deck, after Du et al. (2025), names a limit in three
# steps:
#
# 1. Language is nearly a Markov chain: the last $k$ tokens tell nearly
#    everything about the next one.
# 2. In a random order the last $k$ tokens lie anywhere. To have the neighbors
#    among them, $k$ has to be large.
# 3. Attention sees all tokens and *could* pick the neighbors, but has to
#    learn this for all orders at once.
#
# And the deck adds a caveat: that left to right beats a random order does
# not make it the best one.
#
# This chapter takes the steps one by one: first exactly, on chains whose
# entropies are known, then with trained networks, then on English letters.
# What a limited model pays is known exactly where the joint is known. At step
# $n$ of an order $o$ it sees the tokens of a set $S_n$, a part of what is
# revealed, and its cost is
#
# $$
# \sum_n H(x_{o(n)} \mid x_{S_n}) \; \ge \; H(x) ,
# $$
#
# with equality if it sees everything. Costs are in nats, those of text in
# bits per letter. Proofs are on the page [Orders: definitions and
# proofs](../book/theory_orders.md). In figures a line is exact, and points
# with bars are measured; intervals are at 95 %.

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/10_why_order_matters.ipynb)

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
import pandas as pd
import torch

from dllm_tutorial import (
    config,
    joints,
    ledger,
    limited,
    mixtures,
    neighborhood,
    ngrams,
    order_search,
    order_study,
    orders,
    plots,
    study,
    text,
    training,
)

torch.set_num_threads(1)
plots.style()
sizes = config.load("10_why_order_matters", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
generator = torch.Generator().manual_seed(SEED)


def plain(name):
    return name.replace("-to-", " to ")


def in_words(gap, digits=3):
    """Mean and 95 % interval over seeds."""
    ends = f"[{gap.low:+.{digits}f}, {gap.high:+.{digits}f}]"
    return f"{gap.mean:+.{digits}f} {ends}"


# %% [markdown]
# ## A chain seen through a window
#
# Take a chain of 64 tokens in four symbols. Each token repeats the one before
# it with probability .85, and otherwise is one of the other three. Given a
# neighbor, nothing on the neighbor's far side matters.
#
# A model sees $k$ tokens: either the *last* $k$ that were generated, or the
# $k$ revealed ones that stand *nearest* to the predicted position. It knows
# the exact conditional given these.
#
# Five orders: left to right; right to left; blocks of eight from left to
# right, random within each; *bit-reversed*, which spreads the tokens of every
# stage evenly (position 0, 32, 16, 48, 8, ...); random.
#
# **Predict.** Which $k$ does left to right need to lose nothing? Which $k$
# does a random order need, if it sees the last $k$? If it sees the nearest
# $k$?

# %%
chain = neighborhood.noisy_sum(sizes.chain)
per_token = chain.entropy() / chain.length
windows = [k for k in (1, 2, 4, 8, 16, 32) if k < chain.length // 2 + 1]
windows.append(chain.length - 1)
rows = neighborhood.chain_rows(chain.length, windows, n=sizes.orders)
seen = pd.DataFrame(rows)
print(f"entropy: {per_token:.3f} nats a token, of a single token", end=" ")
print(f"{chain.entropy([0]):.3f}")
for by in neighborhood.VIEWS:
    print(f"by {by}, k =".rjust(22) + "".join(f"{k:8d}" for k in windows))
    for name, part in seen[seen.by == by].groupby("order", sort=False):
        costs = "".join(f"{c:8.3f}" for c in part.nats_per_token)
        print(f"{name:>22}{costs}")
print(f"largest standard error: {seen.standard_error.max():.3f}", end=" ")
print(f"({sizes.orders} orders where orders are drawn)")

# %% mystnb={"figure": {"caption": "Cost per token of a chain of 64 tokens for a model that sees k of the revealed tokens. Left: the last k generated. Right: the k nearest in the sequence. Exact for every order; random orders by time are averaged in closed form, the other two lines that need draws are means over 100 orders with standard errors of at most .003. Floor: the entropy of the chain. Ceiling: nothing seen.", "name": "fig-why-window"}, "image": {"alt": "Two panels of cost per token against k on a logarithmic axis. Left, by time: left to right and right to left lie on the floor from k = 1; blocks of 8 reach it at 16; random and bit-reversed come down slowly and reach it at 63. Right, by space: all five orders are at the floor from about k = 4."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.4, sharey=True)
titles = ("last k generated", "k nearest revealed")
for ax, by, title in zip(axes, neighborhood.VIEWS, titles):
    for name, part in seen[seen.by == by].groupby("order", sort=False):
        mark = plots.marker(name)
        cost = part.nats_per_token
        plots.exact(ax, part.k, cost, name, label=plain(name), marker=mark)
    plots.level(ax, per_token, "entropy", above=False)
    plots.level(ax, chain.entropy([0]), "nothing seen")
    ax.set_xscale("log", base=2)
    ax.set_xticks(windows, windows)
    ax.set(title=title, xlabel="k", ylim=(0.5, 1.5))
axes[0].set_ylabel("nats per token")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %% [markdown]
# **What this shows.** The deck's second step is right, word for word: *seen
# through the last tokens*, left to right needs one of them, and a random
# order most of them. Blocks lie between, and need no more than two blocks.
#
# But look at the right panel. The random orders are the same, the number of
# tokens seen is the same, and two of them are nearly enough. So a random
# order does not need a larger neighborhood. It needs a neighborhood in
# *space*, and the window looks in *time*. From left to right the two are the
# same tokens, and that is all that is special about it here.
#
# **What it does not show.** That a network has such a window. A Transformer
# sees every revealed token and where it stands. What it has to do, and a
# left-to-right network need not, is to find the near ones, wherever they
# were in time. The next sections measure how hard that is.

# %% [markdown]
# ### Recent is not near
#
# How large must the window in time be? At step $n$ of a random order the
# nearest revealed token on the left is as likely as any other of the $n - 1$
# earlier ones to be among the last $k$:
#
# $$
# P(\text{left one}) = \frac{k}{n-1}, \qquad
# P(\text{both}) = \frac{k\,(k-1)}{(n-1)(n-2)} .
# $$
#
# So $k$ has to grow with the length. In space something else grows. A chain
# of order $m$ is cut off from the rest only by a *run* of $m$ revealed
# tokens. If a fraction $u$ is revealed at random, such a run is complete at a
# distance of $(u^{-m} - 1)/(1 - u)$ on average.
#
# **Predict.** Half of the tokens are revealed. How far away is the first run
# of four?

# %%
print("chance that both neighbors are among the last k")
print("   n:" + "".join(f"{k:>9}" for k in ("k = 4", "k = n/4", "k = n/2")))
for n in (16, 64, 256, 1024):
    chances = [neighborhood.recency(n, k)[1] for k in (4, n // 4, n // 2)]
    print(f"{n:4d} " + "".join(f"{p:9.3f}" for p in chances))
print("mean distance of the first run of m revealed tokens")
print("   m:" + "".join(f"{f'u = {u}':>9}" for u in (0.75, 0.5, 0.25)))
for m in (1, 2, 4, 8):
    radii = [neighborhood.run_radius(u, m) for u in (0.75, 0.5, 0.25)]
    print(f"{m:4d} " + "".join(f"{r:9.0f}" for r in radii))

# %% [markdown]
# In a chain of order one a single neighbor on each side is such a run. A
# chain of order two shows the difference: a token is, up to noise, the sum of
# the last two. One of the two alone tells nothing.

# %%
second = study.read_rows("order_chain").query("chain_order == 2")
draws = second.drawn.iloc[0]
ks = (1, 2, 4, 8, 16)
print(f"chain of order 2, 32 tokens, nats per token; 95 % over {draws}")
print(f"{'k =':>22}" + "".join(f"{k:13d}" for k in ks))
for name in ("left-to-right", "random"):
    for by in neighborhood.VIEWS:
        part = second[(second.order == name) & (second.by == by)]
        part = part.set_index("k")
        cells = [
            f"{row.nats_per_token:7.3f}±{1.96 * row.standard_error:.3f}"
            for row in (part.loc[k] for k in ks)
        ]
        print(f"{name + ' by ' + by:>22}" + "".join(cells))

# %% [markdown]
# **What this shows.** With longer memory a random order needs more tokens in
# space too: a few more, not all. The window in time again needs half of the
# sequence and more.

# %% [markdown]
# ### A few exchanges
#
# Between left to right and random lie orders that are *nearly* left to right.
# Kim, Shah et al. (2025) make them by exchanges: swap two entries of
# the order, drawn at random, and repeat. One exchange moves two tokens out of
# their turn; after many nothing is left of the direction.
#
# **Predict.** The chain of 64 tokens again, a window of the last four. One
# exchange out of 64 tokens: does it matter? And in space: will the cost rise
# with the exchanges, up to that of a random order?

# %%
swaps = (0, 1, 2, 4, 8, 16, 32, 64)
few = (1, 2, 4, 16)
between = pd.DataFrame(
    neighborhood.swap_rows(chain.length, swaps, few, n=sizes.orders)
)
print(f"nats per token above the entropy; means over {sizes.orders} orders")
print(f"{'exchanges':>14}" + "".join(f"{n:7d}" for n in swaps) + " random")
for by in neighborhood.VIEWS:
    for k in few:
        part = between[(between.by == by) & (between.k == k)]
        at = (seen.by == by) & (seen.k == k) & (seen.order == "random")
        costs = [*part.nats_per_token, seen[at].nats_per_token.item()]
        line = "".join(f"{cost - per_token:z7.3f}" for cost in costs)
        print(f"{f'{by}, k = {k}':>14}{line}")
error = between.standard_error.max()
print(f"largest standard error of a mean: {error:.3f}")

# %% mystnb={"figure": {"caption": "Cost of a chain of 64 tokens in orders that are left to right after a number of exchanges, for a model that sees k of the revealed tokens; at the right end uniformly random orders. Means over 100 orders, each exact, with 95 % intervals (smaller than the markers). Dotted, zero: the entropy.", "name": "fig-why-swaps"}, "image": {"alt": "Two panels of cost per token against the number of exchanges. Left, by time: the cost rises from the floor at once, for every k, up to that of random orders at about 64 exchanges. Right, by space: it rises much less, and for k of 2 and 4 falls again, so that the middle costs more than random orders."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.4)
ticks = [*swaps, "any"]
for ax, by, title in zip(axes, neighborhood.VIEWS, titles):
    for k, mark in zip(few, "os^D"):
        part = between[(between.by == by) & (between.k == k)]
        at = (seen.by == by) & (seen.k == k) & (seen.order == "random")
        both = pd.concat([part, seen[at]])
        ax.errorbar(
            range(len(ticks)),
            both.nats_per_token - per_token,
            yerr=1.96 * both.standard_error,
            marker=mark,
            markersize=4.5,
            linewidth=1.2,
            label=f"k = {k}",
        )
    plots.level(ax, 0, "")
    ax.set_xticks(range(len(ticks)), ticks, fontsize=8)
    ax.set(title=title, xlabel="exchanges")
axes[0].set_ylabel("nats per token above the entropy")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4
)

# %% [markdown]
# In space, with two or four tokens, the middle costs more than either end. What
# is missing there? For
# each step of an order: is there a revealed token on the right, and do the
# nearest two show one?

# %%
dice = torch.Generator().manual_seed(SEED)
position = torch.arange(chain.length)
for count in (1, 4, 16, 64):
    drawn = [
        orders.swap_order(chain.length, count, dice)
        for _ in range(sizes.orders)
    ]
    order = torch.stack(drawn)
    place = neighborhood.queue(order, "space")
    shares = []
    for side in (position < order[..., None], position > order[..., None]):
        there = (side & (place < chain.length)).any(-1)
        shown = (side & (place < 2)).any(-1)
        shares.append((there & ~shown).double().mean().item())
    print(f"{count:3d} exchanges, tokens there and none shown:", end=" ")
    print(f"left {shares[0]:.0%}, right {shares[1]:.0%} of the steps")

# %% [markdown]
# **What this shows.** In time every exchange costs, from the first one on,
# and at first all cost the same: each spoils a few predictions, and these lie
# far apart. After about as many exchanges as there are tokens nothing is left
# to spoil. In space the middle is the worst place for two or four tokens.
# There most tokens on the left are revealed and fill the window, and the one
# on the right that an exchange has revealed early is not seen. In a random
# order both sides are equally far away.
#
# **What it does not show.** How hard these orders are to learn; that is
# measured below, on two of our sources.

# %% [markdown]
# ## How many questions?
#
# What has to be learned? One question is: *this position, given exactly these
# others*. Left to right asks one question per position. A diffusion model is
# asked for any position given any set of others. A decoder that reads the
# tokens in the order in which they came could even tell apart lists, not
# only sets.
#
# **Predict.** How many questions are there for a sequence of 8 tokens, by
# kind?

# %%
kinds = list(neighborhood.conditionals(1))
print("   n:" + "".join(f"{kind:>18}" for kind in kinds))
for n in (4, 8, 16, 32):
    counts = neighborhood.conditionals(n).values()
    shown = (f"{c:18,d}" if c < 10**9 else f"{c:18.1e}" for c in counts)
    print(f"{n:4d} " + "".join(shown))

# %% [markdown]
# For a chain of order one only the gaps to the nearest revealed tokens
# matter, and the number stays small. A network must find that out. It does
# not store a table for each question: what it learns for one, it uses for
# others. But all of them pull at the same weights, and each is met rarely.
#
# From left to right there is one more gift. The chain is the same
# everywhere, so all positions ask *the same* question. In one fixed random
# order there are also only $n$ questions, but nearly all are different.

# %% [markdown]
# ## Learned: one order or all
#
# Now networks instead of tables. Three chains, drawn at random, whose
# entropies we know. For each of five seeds: networks with the same weights
# at the start and the same batches, of which only the order differs. All but
# the diffusion model are any-order Transformers: each step reads the
# previous token, its place, and the place to predict next, and attends to
# everything before. They are told the order and have all of the past, so the
# exact model is within the reach of their *inputs*. The diffusion model has
# the same blocks and sees in both directions.
#
# At equal updates, each order has one term of the loss for every token;
# diffusion has about half as many. Uniform random orders and diffusion go on
# to three times as many updates.
#
# **Predict.** Which orders get to the exact model? Is one fixed random order
# as easy as left to right, which has as many questions?

# %%
learned = order_study.read()
chains = [name for where, name in order_study.CHAINS if where == "cpu"]
one_or_all = ["left-to-right", "right-to-left", "fixed random"]
one_or_all += ["uniform random", "diffusion"]
for corpus in chains:
    source = order_study.chain(corpus)
    size = order_study.CHAINS["cpu", corpus][2]
    h = source.entropy() / source.length
    print(f"{corpus}: {h:.3f} nats a token, guessing costs", end=" ")
    print(f"{math.log(source.vocab_size) - h:.3f} more;")
    print(f"    width {size.d_model}, {size.n_layers} layers,", end=" ")
    print(f"{size.updates} updates of {size.batch_size} sequences")

# %% mystnb={"figure": {"caption": "Cost above the exact model, nats per token, along training; the exact model, zero, lies below the logarithmic axis. Diffusion is scored by its bound. Three chains, 5 seeds, 95 % t intervals over seeds, 512 held-out sequences, the same for all networks. Equal updates mean equal supervised tokens for the four any-order networks; the diffusion model has about half as many. The learning rate falls to zero over the last 30 % of each curve.", "name": "fig-why-chains"}, "image": {"alt": "Three panels, one for each chain, of excess nats per token against updates on logarithmic axes, with curves for left to right, right to left, one fixed random order, uniformly random orders and diffusion."}} tags=["hide-input"]
figure, axes = plots.panels(3, height=2.9)
for ax, corpus in zip(axes, chains):
    for name in one_or_all:
        curve = order_study.curves(learned, corpus, [name])
        curve = curve.iloc[[0, 1, 3, 5, 7, 9]]
        ends = (curve.low, curve.high)
        plots.measured(
            ax,
            curve.updates,
            curve.value,
            ends,
            name,
            label=plain(name),
            linestyle=plots.dash(name),
            linewidth=1.2,
            markersize=4.5,
        )
    ax.set(xscale="log", yscale="log", xlabel="updates")
    ax.set_title(corpus, fontsize=9.5)
for ax in axes[::2]:
    ax.set_ylabel("excess nats per token")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %%
pairs = [
    ("right-to-left", "left-to-right"),
    ("fixed random", "left-to-right"),
    ("uniform random", "left-to-right"),
    ("uniform random", "fixed random"),
    ("diffusion", "uniform random"),
]
at_end = order_study.final(learned)
for corpus in chains:
    part = at_end[at_end.corpus == corpus]
    budget = part.groupby("order").updates.max()
    early = round(0.6 * budget["left-to-right"])
    print(f"{corpus}: excess nats per token, mean of seeds")
    means = part.groupby("order").value.mean()
    for name in one_or_all:
        times = means[name] / means["left-to-right"]
        print(f"{name:>30} {means[name]:8.4f}, {times:4.1f} times", end=" ")
        print(f"left to right; {budget[name]:.0f} updates")
    columns = (f"at {early} updates", "at the end")
    print(f"{'differences':>30}" + "".join(f"{c:>27}" for c in columns))
    for a, b in pairs:
        middle = order_study.gap(learned, corpus, a, b, at=early)
        end = order_study.gap(learned, corpus, a, b)
        print(f"{a:>14} - {b:<14}{in_words(middle, 4):>27}", end="")
        print(f"{in_words(end, 4):>27}")

# %%
print("updates for the same excess, in multiples, 95 % over seeds")
for corpus in chains:
    print(f"{corpus}:")
    for a, b in (pairs[1], pairs[3], pairs[4]):
        levels = order_study.levels(learned, corpus, (a, b), 3)
        found = order_study.ratio(learned, corpus, levels, a, b)
        cells = [
            f"{r.ratio:.1f} [{r.low:.1f}, {r.high:.1f}] at {r.value:.3f}"
            for r in found[found.seeds > 1].itertuples()
        ]
        none = "one of them begins below the end of the other"
        print(f"    {a} / {b}:")
        print("       ", ";\n        ".join(cells) or none)

# %% [markdown]
# **What this shows.** Both directions come close to the exact model, and to
# each other: they differ by a thousandth of a nat at most, on the mean of the
# seeds. (On one chain the interval at the end leaves out zero, in favor of
# right to left.) For random orders there are two burdens, and the fixed one
# separates them.
#
# * It is a *single* order, with as many questions as left to right. What it
#   lacks is that neighbors in time are neighbors in space, and that all
#   positions ask the same. This alone leaves several times the excess of left
#   to right, on all three chains.
# * *All orders at once*, the burden that the deck's third step is about, come
#   on top. At equal updates this step is the larger of the two, on all three
#   chains. For the same excess uniform random orders need two to five
#   times the updates of the fixed one. With three times as many at the end
#   they are still behind on two chains; on the other the interval holds zero.
#
# Diffusion ends below the network of random orders on all three chains,
# though it has had half as many supervised tokens (chapter 9).
#
# Only the columns at equal updates compare equal budgets. There no learning
# rate has begun to fall; at the end uniform random and diffusion have had
# three times the updates.
#
# **What it does not show.** That the exact model cannot be reached: these are
# short trainings of small networks. Nor is it measured that full attention
# *could* represent the exact conditionals. The network sees all that is
# needed, and that is all we know. And one fixed random order is one draw:
# another one may be easier or harder.

# %% [markdown]
# ## Is language a Markov chain?
#
# English letters (State of the Union addresses; 27 symbols, the blank is
# one). Two questions, and counting answers both. What does *one* letter tell
# about another, $d$ places away? And what do the last $k$ letters tell
# together?
#
# **Predict.** At which distance does a letter tell less than a hundredth of
# a bit? How does the value of $k$ at which counting stops to gain depend on
# the amount of text?

# %%
stream, held_out = (
    text.letters("sotu", part).numpy() for part in ("train", "held-out")
)
stream, held_out = stream[: sizes.letters], held_out[:200_000]
V, bit = len(text.LETTERS), math.log(2)


def value_of(offsets):
    """Bits per held-out letter, knowing 0, 1, ... letters at some offsets."""
    start, stop = -min(0, *offsets), len(held_out) - max(0, *offsets)
    columns = [held_out[start + d : stop + d] for d in (*offsets, 0)]
    x = np.stack(columns, axis=1)
    log_p = neighborhood.offset_log_prob(stream, x, offsets, V)
    return -log_p.mean(1) / bit


distances = (1, 2, 3, 4, 6, 8, 12)
tells = [-np.diff(value_of([-d]))[0] for d in distances]
lengths = (sizes.letters // 16, sizes.letters)
ngram = {n: ngrams.WittenBell(stream[:n], 8, V) for n in lengths}
counted = {
    n: [-model.log_prob(held_out, k).mean() / bit for k in range(1, 9)]
    for n, model in ngram.items()
}
print("distance       " + "".join(f"{d:7d}" for d in distances))
print("bits it tells  " + "".join(f"{t:7.3f}" for t in tells))
print("k              " + "".join(f"{k:7d}" for k in range(8)))
for n, bits in counted.items():
    print(f"{n:9,d} read" + " " + "".join(f"{b:7.3f}" for b in bits))
    print(f"    best k: {np.argmin(bits)}")

# %% mystnb={"figure": {"caption": "Letters of the State of the Union addresses, by counts, 200,000 held-out letters. Left: bits that one letter tells about another at distance d, a million letters counted. Right: bits per letter given the last k, for a million counted letters and for a sixteenth of them; interpolated n-grams.", "name": "fig-why-letters"}, "image": {"alt": "Left: the bits that one letter tells fall steeply from .8 at distance 1 to less than .01 at distance 8, on logarithmic axes. Right: bits per letter fall from 4.1 and turn up again, after k = 4 with little text and after k = 5 with a million letters."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=2.9)
axes[0].plot(distances, tells, "o-", color=plots.BLUE)
axes[0].set(xscale="log", yscale="log", xlabel="distance d")
axes[0].set_xticks(distances[::2], distances[::2])
axes[0].minorticks_off()
axes[0].set(ylabel="bits", title="one letter")
for (n, bits), mark in zip(counted.items(), ("v:", "o-")):
    color = plots.GRAY if mark == "v:" else plots.BLUE
    axes[1].plot(range(8), bits, mark, color=color, label=f"{n:,} letters")
axes[1].set(xlabel="k", ylabel="bits per letter", title="the last k")
axes[1].legend(fontsize=9)
_ = axes[1].set_ylim(0)

# %% [markdown]
# **What this shows.** What is near matters most, and by far: each of the
# first steps away more than halves what a letter tells. The deck's first step
# holds in this sense.
#
# **What it does not show.** That the last few letters tell *nearly
# everything*. The curve on the right goes flat and turns up, but where it
# does depends on the amount of text that was counted. That is the limit of
# counting. What remains may be small for each letter far away and large
# for all of them together: a topic, a name.

# %% [markdown]
# ### Letters in other orders
#
# Now the window of the first section, on this text: 32 letters, $k$ of them
# seen, one table of counts for every pattern of offsets that an order asks
# for.
#
# **Predict.** Seen through the last four letters generated, how much of what
# left to right gains does a random order gain?

# %%
counts = study.read_rows("order_text")
seen_k = counts.groupby(["by", "order", "k"], sort=False)
bits_at = seen_k.bits_per_character.agg(list)
tables, gain = seen_k.tables.max(), {}
for by in neighborhood.VIEWS:
    print(f"by {by}, k =".rjust(22), end="")
    print("".join(f"{k:7d}" for k in range(5)) + "   tables at k = 4")
    for name in counts.order.unique():
        bits = [np.mean(bits_at[by, name, k]) for k in range(5)]
        gain[by, name] = bits[0] - bits[4]
        line = "".join(f"{b:7.3f}" for b in bits)
        print(f"{name:>22}{line}{tables[by, name, 4]:8d}")
    share = gain[by, "random"] / gain[by, "left-to-right"]
    print(f"    random gains {share:.0%} of what left to right gains")
print(f"{counts.windows.iloc[0]:,} windows, standard errors", end=" ")
print(f"at most {counts.standard_error.max():.4f};", end=" ")
print(f"random: mean of {counts.seed.nunique()} orders")

# %% mystnb={"figure": {"caption": "Bits per letter of English by counts that see k of the revealed letters of a window of 32. Left: the last k generated. Right: the k nearest. 17,939 held-out windows; standard errors over windows are smaller than the markers. Random: mean of 3 orders with 95 % t intervals over them; the other orders are single. All orders start at 4.1 bits at k = 0, where nothing is known.", "name": "fig-why-text-window"}, "image": {"alt": "Two panels of bits per letter against k from 0 to 4. Left, by time: left to right and right to left fall together to 1.9; blocks of 8 to 2.5; random stays above 3.7; bit-reversed hardly falls. Right, by space: all orders fall to about 2."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.3, sharey=True)
for ax, by, title in zip(axes, neighborhood.VIEWS, titles):
    for name in counts.order.unique():
        bits = np.array([bits_at[by, name, k] for k in range(5)])
        ends = (bits[:, 0], bits[:, 0])
        if bits.shape[1] > 1:
            ends = study.mean_interval(bits)
        plots.measured(
            ax,
            range(5),
            bits.mean(1),
            ends,
            name,
            label=plain(name),
            linestyle=plots.dash(name),
        )
    ax.set(title=title, xlabel="k", ylim=(0, 4.4))
axes[0].set_ylabel("bits per letter")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %% [markdown]
# **What this shows.** English letters behave as the chain does. In time a
# random order gains a small part of what left to right gains. In space it
# gains nearly as much, with more tables to count.
#
# Bit-reversed order by time gains next to nothing, and from $k = 3$ on it gets
# worse: its last letters are far away and tell nothing, and counting them costs. More context is not
# free for a model that learns from data, and that is a difference from the
# exact chain.
#
# **What it does not show.** What a network does with 32 letters.

# %% [markdown]
# ## Letters, learned
#
# Chapter 9 trained the same Transformer on two books in 27 letters, each
# time in another order: windows of 32, three seeds. Here we ask what sorts
# these orders. Two guesses, and they do not agree:
#
# * **Different questions.** The four nearest revealed letters stand at
#   certain offsets. How many such patterns does an order ask for? (Left to
#   right: five, with the start of a window. One fixed order: at most one for
#   each position.)
# * **A far neighborhood in time.** How many steps ago was the oldest of these
#   four letters generated?
#
# **Predict.** For which orders do the two guesses disagree?


# %%
length = order_study.SIZES["cpu"].length
any_order = [n for n in order_study.ORDERS if n not in order_study.DIFFUSION]
guess = {}
for name in any_order:
    drawn = order_study.draw_orders(name, length)(1000, generator)
    age = neighborhood.oldest(drawn, 4).mean().item()
    guess[name] = (neighborhood.patterns(drawn, 4), age)
last = {
    (corpus, name): part.value.to_numpy()
    for (corpus, name), part in at_end.groupby(["corpus", "order"])
}
print(f"{'':>16}{'patterns':>10}{'steps ago':>11}", end="")
print("".join(f"{title:>20}" for title in order_study.TITLES.values()))
for name, (number, age) in guess.items():
    print(f"{name:>16}{number:10d}{age:11.2f}", end="")
    for corpus in order_study.TITLES:
        bits = last.get((corpus, name))
        told = "-" if bits is None else f"{bits.mean():.3f} bits"
        print(f"{told:>20}", end="")
    print()
print("(patterns in 1000 orders; in all orders of a kind there may be more)")

# %%
for corpus, title in order_study.TITLES.items():
    tried = [name for name in any_order if (corpus, name) in last]
    agree, of = np.zeros(2, int), np.zeros(2, int)
    for a, b in itertools.combinations(tried, 2):
        gap = order_study.gap(learned, corpus, a, b)
        for i in (0, 1):
            told = guess[a][i] - guess[b][i]
            if gap.resolved and abs(told) > 1e-9:
                of[i] += 1
                agree[i] += (told > 0) == (gap.mean > 0)
    print(f"{title}: of the pairs of orders whose difference is resolved,")
    print(f"    right by patterns {agree[0]} of {of[0]},", end=" ")
    print(f"by steps ago {agree[1]} of {of[1]}")
    for a, b in (
        ("fixed random", "block 4"),
        ("fixed random", "block 16"),
        ("uniform random", "fixed random"),
        ("right-to-left", "left-to-right"),
    ):
        if b in tried:
            gap = order_study.gap(learned, corpus, a, b)
            print(f"{a:>18} - {b:<14} {in_words(gap)} bits,", end=" ")
            print(f"half width {gap.half:.3f}")

# %% mystnb={"figure": {"caption": "Held-out bits per letter at the end of training against two guesses about what makes an order hard: patterns of the four nearest letters (left, counted in 1000 orders) and the age of the oldest of the four (right). Filled: State of the Union, open: King James Bible; equal updates and supervised tokens for all orders, 600 windows of 32 letters, mean of 3 seeds with 95 % t intervals over seeds. Dotted: interpolated n-grams of the whole training text of State of the Union, left to right.", "name": "fig-why-text-orders"}, "image": {"alt": "Two panels of bits per letter for six orders, against the number of patterns on a logarithmic axis and against the steps since the neighbors were generated, with dotted lines for n-grams of 1 to 5 letters."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.5, sharey=True)
floors = order_study.floors("sotu", 5)
for i, (ax, xlabel) in enumerate(zip(axes, ("patterns", "steps ago"))):
    for name in any_order:
        for corpus in order_study.TITLES:
            bits = last.get((corpus, name))
            if bits is None:
                continue
            first = corpus == "sotu"
            plots.measured(
                ax,
                [guess[name][i]],
                [bits.mean()],
                np.reshape(study.mean_interval(bits), (2, 1)),
                name,
                label=plain(name) if first else None,
                markerfacecolor=plots.color(name) if first else "white",
            )
    for n in range(1, 6):
        ax.axhline(floors[n], color=plots.GRAY, linestyle=":")
        told = {"fontsize": 9, "color": "#555555", "va": "bottom"}
        if i:
            ax.text(6.8, floors[n], f"{n}-gram", ha="center", **told)
    ax.set(xlabel=xlabel, xscale="linear" if i else "log")
axes[0].set_ylabel("bits per letter")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
)

# %% [markdown]
# **What this shows.** Where a difference is resolved, the number of patterns
# tells its sign, on both texts. The second guess fails once. The two disagree
# about the fixed random order: it has fewer patterns than blocks, but its
# neighbors lie far back in time. It is easier than blocks of 16, as the
# patterns say. Against blocks of 4 the difference is not resolved on either
# text. So what costs seems to be less that the neighbors are *old* than that
# they stand *somewhere else each time*. This fits a network that is told
# where its inputs stand, and in which nothing is closer to the last token
# than to others. The argument from recent tokens is about windows, and a
# Transformer has none.
#
# As on the chains there are two burdens, and both are resolved on both texts.
# But here the first, not to be a direction, is the larger one. Left to right
# and right to left are equal as far as the half widths tell.
#
# **What it does not show.** Much about large models. The networks have seen
# 800 batches, and their distance from the n-grams, which are counted on the
# whole text, says how far they have come: the best lie between a 4-gram and a
# 5-gram. The case for patterns against age rests on one pair of orders on one
# text, the fixed order is a single draw, and other properties rise along with
# the number of patterns. For networks of the size of GPT-2 on web text, Xue et
# al. (2025) report that a fixed random order is far harder than left to
# right, and that blocks of 4 lie between.

# %% [markdown]
# ### A few exchanges, learned
#
# Now the orders between left to right and random. Each network has one fixed
# order: left to right after some exchanges, another such order for each seed.
# The last chain and State of the Union, as many updates as left to right had.
#
# **Predict.** We wrote before the first run: the cost rises with the exchanges,
# fastest with the first ones, and 16 of them cost as much as the fixed random
# order.

# %%
swapped = study.read_rows("order_swaps")
fixed_kinds = ["left-to-right", *(f"swaps {n}" for n in order_study.SWAPS)]
fixed_kinds.append("fixed random")
ladder = order_study.final(pd.concat([learned, swapped]))
networks = []
for corpus in (chains[-1], "sotu"):
    on_text = corpus == "sotu"
    size = order_study.SIZES["cpu"]
    if not on_text:
        size = order_study.CHAINS["cpu", corpus][2]
    table = ladder[ladder.corpus == corpus].set_index(["order", "seed"]).value
    print("bits per letter" if on_text else "excess nats per token", end="")
    print(f", {order_study.TITLES.get(corpus, corpus)}; minus left to right")
    for name in fixed_kinds:
        low, high = study.mean_interval(table[name])
        gap = order_study.gap_between(table[name], table[fixed_kinds[0]])
        told = [
            order_study.draw_orders(name, size.length, seed)(1, None)
            for seed in table[name].index
        ]
        ages = [neighborhood.oldest(o, 4).item() for o in told]
        patterns = np.mean([neighborhood.patterns(o, 4) for o in told])
        print(f"{name:>16} {table[name].mean():.3f} [{low:.3f}, {high:.3f}],")
        print(f"{in_words(gap):>40}; {patterns:.0f} patterns,", end=" ")
        print(f"{np.mean(ages):.1f} steps ago, {len(told)} seeds")
        for age, value in zip(ages, table[name]):
            row = {"corpus": corpus, "order": name, "age": age}
            networks.append(row | {"value": value})
networks = pd.DataFrame(networks)

# %% mystnb={"figure": {"caption": "Networks of one fixed order each: cost at the end of training against the age of the oldest of the four nearest tokens, mean over the steps of the order. Each mark is a network (5 seeds for the chain, 3 for text; the fixed random order is the same one for all seeds). Equal updates and supervised tokens.", "name": "fig-why-swaps-learned"}, "image": {"alt": "Two scatter plots, chain and text: cost against steps ago, with marks for left to right, four numbers of exchanges and one fixed random order. Cost rises with the exchanges in both, steeply at first."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.3)
for ax, corpus in zip(axes, (chains[-1], "sotu")):
    part = networks[networks.corpus == corpus]
    for name, mark in zip(fixed_kinds, "o^vDsX"):
        own = part[part.order == name]
        text = name.replace("swaps", "exchanges:").replace("-to-", " to ")
        ax.plot(own.age, own.value, mark, label=text)
    ax.set_title(order_study.TITLES.get(corpus, corpus), fontsize=9.5)
    ax.set(xlabel="steps ago")
axes[0].set_ylabel("excess nats per token")
axes[1].set_ylabel("bits per letter")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
)

# %% [markdown]
# **What this shows.** The prediction came true on both sources. And the first
# step is large: one exchange, which moves two letters of 32, costs a third of
# what the fixed random order costs. With exact predictions it would cost
# nothing, in any order. So all of it is learning. Few steps are out of line, but
# each of them asks a question of its own, and what the network learns for all
# others seems not to help it there.
#
# Sixteen exchanges, another order for each seed, cost about as much as the one
# fixed random order that we drew. So that one was no odd one.
#
# **What it does not show.** Which of the two guesses is right: both rise with the
# exchanges. On the chain the fixed random order has *younger* neighbors than
# orders after 16 exchanges and is no cheaper, which speaks for patterns; it is
# one comparison.

# %% [markdown]
# ## A window cannot tell the directions apart
#
# In all exact figures so far right to left lies on left to right. This is no
# accident ([proof](../book/theory_orders.md)):
#
# > **Theorem.** A model sees the last $k$ tokens generated and knows the
# > exact conditionals given them. Then, for every joint, every sequence has
# > the same probability from left to right and from right to left. More
# > generally, an order and its reverse always cost the same.
#
# The idea: write the product of all conditionals. Every run of $k + 1$ tokens
# stands above, and every run of $k$ that touches neither end stands below,
#
# $$
# q_k(x) = \frac{\prod_{i} p(x_i, \dots, x_{i+k})}
# {\prod_{i} p(x_i, \dots, x_{i+k-1})} ,
# $$
#
# and in this product no direction is left.
#
# So no Markov argument, for any $k$, can say that one direction of a language
# is easier than the other.
#
# **Predict.** Does it hold for a joint drawn at random, without any
# structure? Which costs must be equal in this table, and which need not?

# %%
support = torch.cartesian_prod(*[torch.arange(3)] * 6)
p = torch.rand(len(support), generator=generator, dtype=torch.float64) ** 4
any_joint = joints.TableJoint(support, p / p.sum(), 3)
table = order_search.block_entropies(any_joint, 6)
four = {
    "left to right": orders.left_to_right(6),
    "right to left": orders.right_to_left(6),
    "another": orders.bit_reversed(6),
    "its reverse": orders.bit_reversed(6).flip(0),
}
print("nats, k =     " + "".join(f"{k:9d}" for k in range(6)))
for name, order in four.items():
    costs = [order_search.window_cost(table, order, k) for k in range(6)]
    print(f"{name:>14}" + "".join(f"{cost:9.4f}" for cost in costs))
found = study.read_rows("order_search")
off = (found.left_to_right - found.right_to_left).abs().max()
print(f"{len(found)} searches of the last section:", end=" ")
print(f"directions agree within 1e-6: {off < 1e-6}")

# %% [markdown]
# ### But learning can
#
# An exact model is indifferent to direction, and so is a window. A network
# that is trained need not be. Here is a source made for it: five free symbols
# (three values each), then five sums of two of them, modulo 3. Each direction
# costs $5 \log 3$ nats. From left to right a sum has two known parts. From
# right to left the sums come first and look free, and then the free symbols
# follow from what is known.
#
# How many tokens must be combined? We search for the smallest set of revealed
# tokens that determines the next one.
#
# **Predict.** Which tokens will a network trained from right to left not
# learn?

# %%
half = 5
one_way = mixtures.one_way(half, 3, torch.Generator().manual_seed(3))
directions = {
    name: order_study.draw_orders(name, 2 * half)(1, None)[0]
    for name in ("left-to-right", "right-to-left")
}


def combined(joint, order, n):
    """How many revealed tokens tell the one of step n; None: no number."""
    past = order[:n].tolist()
    for k in range(n + 1):
        for some in itertools.combinations(past, k):
            if joint.entropy([int(order[n])], some) < 1e-9:
                return k
    return None


needed = {
    name: [combined(one_way, order, n) for n in range(2 * half)]
    for name, order in directions.items()
}
for name, numbers in needed.items():
    told = ["free" if k is None else str(k) for k in numbers]
    print(f"{name}, tokens to combine by step: {' '.join(told)}")
print(f"entropy {one_way.entropy():.3f} nats in both directions")

# %%
size = order_study.Size(32, 2, 4, 2 * half, 96, sizes.updates, 400)
x = one_way.sample(size.windows, torch.Generator().manual_seed(1))
x = x.to(device)


def taught(name, seed):
    """The curve of a network of one direction, and its nats by step."""
    order = directions[name]
    model = order_study.network(name, 3, size, seed, torch.float64)
    model.to(device)
    plan = training.TrainingConfig(
        sizes.updates,
        size.batch_size,
        lr=1e-2,
        warmup=20,
        seed=seed,
        optimizer="muon",
        decay="trapezoid",
    )
    records = training.train(
        model,
        one_way.sample,
        plan,
        loss=order_study.order_loss(name, 2 * half),
        evaluate=lambda m: (-orders.log_prob(m, x, order).mean().item(), 0.0),
        evaluate_every=sizes.updates // 8,
    )
    curve = [(r.step, r.held_out[0]) for r in records if r.held_out]
    with torch.no_grad():
        return curve, -orders.step_log_prob(model, x, order).mean(0).cpu()


runs = {
    name: [taught(name, seed) for seed in range(sizes.seeds)]
    for name in directions
}
for name, each in runs.items():
    final = [curve[-1][1] / one_way.entropy() for curve, _ in each]
    shown = ", ".join(f"{value:.2f}" for value in final)
    print(f"{name}: {shown} times the entropy at the end, by seed")

# %% mystnb={"figure": {"caption": "Ten tokens, five free ones and five sums of two of them. Left: held-out cost along training, 3 seeds, every run is drawn; 160 updates of 96 sequences, width 32, 2 layers, 400 held-out sequences. Floor: the entropy, the same for both directions. Right: the cost of each step at the end, mean of the seeds; the number above a bar tells how many revealed tokens have to be combined (free: none can tell). A free token costs log 3.", "name": "fig-why-one-way"}, "image": {"alt": "Left: three curves from left to right come down to the entropy; from right to left two stop at 1.4 times of it and one at 1.2. Right: bars by step. From left to right the first five cost log 3 and the others nothing; from right to left also two of the last five cost log 3, those that need three tokens."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.2)
for name, each in runs.items():
    for seed, (curve, _) in enumerate(each):
        plots.exact(
            axes[0],
            *zip(*curve),
            name,
            label=None if seed else plain(name),
            marker=plots.marker(name),
            linewidth=1.2,
        )
plots.level(axes[0], one_way.entropy(), "entropy", above=False)
axes[0].set(xlabel="updates", ylabel="nats per sequence", ylim=(5, 11.5))
for shift, (name, each) in zip((-0.2, 0.2), runs.items()):
    cost = torch.stack([by_step for _, by_step in each]).mean(0)
    place = torch.arange(2 * half) + 1 + shift
    color = plots.color(name)
    axes[1].bar(place, cost, 0.38, color=color)
    for at, height, k in zip(place, cost, needed[name]):
        if k is not None:
            height, at = max(float(height), 0.0) + 0.03, float(at) + shift / 2
            told = {"ha": "center", "fontsize": 9, "color": color}
            axes[1].text(at, height, f"{k}", **told)
plots.level(axes[1], math.log(3), "log 3")
axes[1].set(xlabel="step", ylabel="nats", ylim=(0, 1.4))
axes[1].set_xticks(range(1, 2 * half + 1, 3))
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %% [markdown]
# **What this shows.** The same joint, the same entropy, the same network: one
# direction is learned here and the other is not, or only in part. What decides
# is how many tokens a question combines. Combinations of two are learned, in
# both directions, and those of three hardly: one run of three finds one of the
# two. Until all three tokens are found, none of them helps, and the gradient
# has nothing to hold on to (Shalev-Shwartz et al. 2017). No entropy sees this.
#
# So there is a second reason why order matters, and it is not about
# neighborhoods: some orders ask questions that are *hard to compute*.
#
# **What it does not show.** That three can never be learned: more updates or
# a larger network may do it. Nor that language has a direction. That is a
# question for data, and the half widths in the section before say which
# difference our networks could have seen. And with batches of 32 some runs from
# left to right did not come down either; we took 96 after we had seen that.

# %% [markdown]
# ## In parallel it is the other way round
#
# So far one token at a time. Now reveal $k$ tokens per step, on the chain of
# the first section, with exact predictions. The cost is the divergence of
# what is written from the chain: the dependence within each step
# ([theorem](../book/theory_parallel.md)).
#
# **Predict.** Three ways to choose the $k$ tokens: adjacent ones from left to
# right; at random; spread out evenly. Which is the cheapest? Compare with the
# first figure.

# %%
parallel = pd.DataFrame(
    neighborhood.parallel_rows(sizes.chain, (1, 2, 4, 8, 16, 32, 64))
)
by_kind = parallel.pivot(index="blocks", columns="k", values="kl")
kinds = {
    "adjacent": "left-to-right",
    "random": "random",
    "bit-reversed": "bit-reversed",
}
print(f"{'KL in nats, k =':>16}" + "".join(f"{k:9d}" for k in by_kind))
for kind in kinds:
    costs = "".join(f"{round(v, 9):9.2g}" for v in by_kind.loc[kind])
    print(f"{kind:>16}{costs}")

# %% mystnb={"figure": {"caption": "Divergence in nats of revealing k tokens per step of a chain of 64, exact denoiser; exact, for random sets the mean over all orders in closed form. At k = 64 all tokens are drawn at once and the choice is gone. Compare with the figure of windows: what is worst there is best here.", "name": "fig-why-parallel"}, "image": {"alt": "KL against tokens per step, three curves. Adjacent tokens cost 10 nats at k = 2 and 35 at k = 8; random ones .6 and 4; evenly spread ones nearly nothing and .3. All meet at 50 nats at k = 64."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=2.9)
for kind, name in kinds.items():
    mark = plots.marker(name)
    costs = by_kind.loc[kind]
    plots.exact(ax, by_kind.columns, costs, name, label=kind, marker=mark)
ax.set_xscale("log", base=2)
ax.set_xticks(by_kind.columns, by_kind.columns)
ax.set(xlabel="tokens per step", ylabel="KL in nats")
_ = ax.legend()

# %% [markdown]
# **What this shows.** Neighbors tell the most about each other. For one token
# at a time this is why a neighbor should be *seen*. For several at a time it
# is why neighbors should not be drawn *together*. The order with the worst
# window is the cheapest to decode in parallel, and the other way round. Who
# wants to be fast needs far orders, which are hard to learn. Who wants to
# learn well needs near ones, which are costly in parallel. Blocks are a
# compromise: near in the large, free within.
#
# **What it does not show.** Which compromise is best. That depends on how
# many calls may be made, and on the data. And the conditionals are exact
# here: what a network has learned less well comes on top.

# %% [markdown]
# ## Orders that are not left to right
#
# Is left to right the best order? On a chain of order one it is, together with
# its reverse. The tasks of the benchmark are no chains. Here is a random word of
# five letters followed by its copy, its reverse, or its letters sorted. A
# model sees the last token generated. The best of all orders is found
# exactly, by dynamic programming over sets of revealed positions.
#
# **Predict.** Word and copy, ten tokens. What is the best order for a window
# of one? How large a window does left to right need?

# %%
named = order_search.named_joints()
del named["sudoku"]
best = pd.DataFrame(order_search.search_rows(named, (1,)))
best = best[best.by == "time"].set_index("joint")
letters = "abcdeABCDE"
print("cost / entropy, window of the last token:")
print(f"{'':>18}{'left to right':>14}{'random':>9}{'best':>8}")
for name, row in best.iterrows():
    costs = (row.left_to_right, row.random_mean, row.best)
    ahead, mean, least = (cost / row.entropy for cost in costs)
    print(f"{name:>18}{ahead:14.2f}{mean:9.2f}{least:8.2f}")
best_order = {
    name: torch.tensor([int(i) for i in order.split()])
    for name, order in best.best_order.items()
}
for name in ("copy", "reverse"):
    window, ahead = (
        order_search.window_needed(named[name], order)
        for order in (best_order[name], orders.left_to_right(10))
    )
    told = " ".join(letters[i] for i in best_order[name])
    print(f"{name}: {told} needs k = {window}, left to right k = {ahead}")
hidden = orders.random_order(10, torch.Generator().manual_seed(0)).argsort()
order = best_order["shuffled chain"]
recovered = torch.equal(order, hidden) or torch.equal(order, hidden.flip(0))
print("order of the shuffled chain recovered:", recovered)

# %% mystnb={"figure": {"caption": "What a model pays that sees only the last token generated, relative to the entropy, on joints of 8 or 10 tokens. Exact, and the best order is proved to be the best of all. Random: mean over 1000 orders and the range of plus and minus two standard deviations over orders. Floor: a perfect model, 1 in every order.", "name": "fig-why-best-order"}, "image": {"alt": "Seven joints from top to bottom with the cost relative to the entropy of left to right, of random orders with their spread, and of the best order. On copy and reverse the best order is at 1 and left to right near 2. On the chain left to right is at 1, on the shuffled chain the best order is. On shuffle all are equal."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.4)
place = np.arange(len(best))
ax.errorbar(
    best.random_mean / best.entropy,
    place,
    xerr=2 * best.random_sd / best.entropy,
    color=plots.color("random"),
    marker=plots.marker("random"),
    linestyle="none",
    capsize=2.5,
    label="random, ± 2 sd",
)
for column, look, name in (
    ("left_to_right", "left_to_right", "left to right"),
    ("best", "oracle", "best order"),
):
    ax.plot(
        best[column] / best.entropy,
        place,
        plots.marker(look),
        color=plots.RED if column == "best" else plots.color(look),
        markersize=9 if column == "best" else 7,
        label=name,
    )
ax.axvline(1, color=plots.GRAY, linestyle=":")
ax.set(xlabel="cost / entropy", ylim=(len(best) - 0.5, -0.5))
ax.set_yticks(place, best.index)
_ = figure.legend(loc="outside lower center", ncols=3)

# %% [markdown]
# **What this shows.** On copy and reverse the best order goes back and forth
# between the word and its answer and loses nothing, where left to right pays
# nearly twice. On the shuffled chain it finds the order that was hidden. On
# shuffle (a random permutation of 8 items) all orders are equal, because
# nothing distinguishes the positions. Whether left to right even beats the
# average order depends on the task, and on the window:

# %%
print("share of random orders that cost less than left to right")
print(f"{'k =':>18}" + "".join(f"{k:8d}" for k in (1, 2, 3)))
better = found[found.by == "time"].pivot(
    index="joint", columns="k", values="random_better"
)
for name in ("copy", "reverse", "sort", "shuffled chain", "chain"):
    print(f"{name:>18}" + "".join(f"{v:8.0%}" for v in better.loc[name]))

# %% [markdown]
# **What it does not show.** That a Transformer wants such an order. It has no
# window: the autoregressive networks of chapter 6 learned to copy and to
# reverse from left to right. An order is best *for a limit*.

# %% [markdown]
# ### Sudoku: an order that looks
#
# The other limit of this book: a model that sees all clues but only makes
# pencil marks, so that any symbol missing in the row, the column and the box
# is equally likely. On puzzles with one solution the entropy is zero, and
# every nat is paid for not thinking ahead. An order can help that is not
# fixed: *fewest candidates first* looks at the predictions and goes where
# they are surest.
#
# **Predict.** What does it pay?

# %%
sudoku, marks = joints.sudoku(), limited.pencil_marks()
puzzles, solutions = limited.unique_puzzles(sudoku, sizes.puzzles, generator)
rules = {
    "left-to-right": order_search.first_position,
    "fewest candidates": order_search.fewest_candidates,
    "random": lambda p: torch.rand(p.shape[:2], generator=generator),
}
for name, rule in rules.items():
    nats = order_search.follow(marks, puzzles, solutions, rule)
    print(f"{name:>18}: {nats.mean():.2f} nats", end=" ")
    print(f"({len(puzzles)} puzzles, here and now)")
by_order = study.read_rows("order_puzzles")
for start, part in by_order.groupby("start", sort=False):
    print(f"from the {start}, entropy {part.entropy.iloc[0]:.3f}:")
    for _, row in part.iterrows():
        print(f"{row.order:>20} {row.nats:7.3f} nats,", end=" ")
        print(f"nothing paid in {row.certain:.0%} of {row.runs} runs")

# %% [markdown]
# **What this shows.** The rule pays nothing on these puzzles, and a fixed
# order does. Even on the empty grid it comes near the entropy. There the
# search over all *fixed* orders finds nothing better than row by row: what
# helps is not another permutation, but an order that adapts. That is what
# confidence decoding offers, and what no model of a single fixed order has.
#
# **What it does not show.** That learned confidences are as good as pencil
# marks, which are never wrong about what is impossible. Chapter 6 measures
# that.

# %% [markdown]
# ## What we have seen
#
# - A perfect model is indifferent to order. Every preference comes from a
#   limit: a window, too little training, no thinking ahead.
# - *Window in time:* left to right needs one token of a chain, a random order
#   most of them, and every exchange between the two costs. *Window in space:*
#   two are nearly enough in any order. A random order lets the neighbors become
#   old, and early on they are further away; known tokens on both sides make up
#   for that.
# - English letters are near-sighted in the same way. That a few letters tell
#   nearly everything is not shown: counting runs out of text first.
# - Not to be a direction, and to be all orders at once, are two burdens, and a
#   fixed random order tells them apart. On our chains the second is larger, on
#   letters the first. How hard an order of letters is to learn follows the
#   number of patterns of neighbors rather than their age, as far as we can
#   tell.
# - One exchange in a left-to-right order is enough to cost a network a third of
#   what a random order costs it. With exact predictions it would cost nothing.
# - No window can tell left to right from right to left. Learning can, where
#   one direction has to combine more tokens.
# - What makes an order good for one token at a time makes it bad for many at
#   a time.
# - Left to right is not the best order on most of the list tasks, for a model
#   with a window, and for Sudoku no fixed order is.

# %% [markdown]
# ## Exercises
#
# **1. Orders that lose nothing.** A chain of seven tokens of order one has
# 5040 orders. How many of them lose nothing with a window of the last one
# token? With the nearest one?

# %% [markdown] tags=["hide-cell"]
# **Solution.** In time two: each token must be a neighbor of the one before
# it, and that leaves the two directions. In space $2^6$: what is revealed has
# to be a run at every step, which grows to the left or to the right: the
# orders that start anywhere and work outward. Two tokens in time allow a
# little more than a direction: to jump over a token and come straight back.

# %% tags=["hide-cell"]
short = neighborhood.noisy_sum(7, vocab=2)
table = order_search.block_entropies(short, 4)
every = orders.all_orders(7)
for by, k in itertools.product(neighborhood.VIEWS, (1, 2, 3)):
    cost = order_search.window_cost(table, every, k, by)
    lossless = int((cost < short.entropy() + 1e-9).sum())
    print(f"by {by}, k = {k}: {lossless} of {len(every)} lose nothing")

# %% [markdown]
# **2. How strong must the dependence be?** With `keep` at 1/4 the four
# symbols are independent, with `keep` at 1 all tokens are equal. Does a
# random order lose anything in these two cases, seen through the last four
# tokens? Where in between does it lose most?

# %% [markdown] tags=["hide-cell"]
# **Solution.** Independent tokens need no window. Equal tokens need one
# token, any one, wherever it stands. Between them the loss has a maximum.
# What hurts is a dependence that is strong nearby and gone far away: a
# memory shorter than the distance to a random token. As a share of what can
# be known it falls all the way, as the memory gets longer.

# %% tags=["hide-cell"]
for keep in (0.26, 0.4, 0.55, 0.7, 0.85, 0.95, 0.99):
    source = neighborhood.noisy_sum(64, keep=keep)
    h = source.entropy() / 64
    lost = neighborhood.random_window_nll(source, 4) - h
    known = source.entropy([0]) - h
    print(f"keep {keep:.2f}: loses {lost:.3f} nats a token,", end=" ")
    print(f"{lost / known:.0%} of what left to right knows")

# %% [markdown]
# **3. Neighbors on both sides.** Four letters may be seen: the four on the
# left, or two on each side. Which tells more, and how much? Why does a model
# that fills in text not beat left to right by that much, per letter?

# %% [markdown] tags=["hide-cell"]
# **Solution.** Two on each side tell far more. But only the letters that come
# late in an order have both neighbors, and the early ones pay for it: they
# have none. For exact conditionals the sum over all letters is the same in
# every order.

# %% tags=["hide-cell"]
for name, offsets in (
    ("on the left", (-1, -2, -3, -4)),
    ("two on each side", (-1, 1, -2, 2)),
):
    bits = value_of(offsets)
    print(f"{name:>16}: " + " ".join(f"{b:.2f}" for b in bits), "bits")

# %% [markdown]
# **4. Better than bit-reversed?** Two tokens per step, a chain of eight. Is
# the bit-reversed order the cheapest of all? Guess a better one, then search.

# %% [markdown] tags=["hide-cell"]
# **Solution.** It is far better than most, and not the best: its pairs are
# four apart, and at the start nothing separates them. The best first pair
# lies at a distance of six.

# %% tags=["hide-cell"]
eight, every = neighborhood.noisy_sum(8), orders.all_orders(8)
cost = neighborhood.parallel_kl(eight, every, 2)
reverse = neighborhood.parallel_kl(eight, orders.bit_reversed(8), 2)
print(f"left to right {cost[0]:.3f}, mean of all {cost.mean():.3f},", end=" ")
print(f"bit-reversed {reverse:.3f}, best {cost.min():.3f}")
cheaper = (cost < reverse - 1e-9).double().mean()
print(f"orders that are cheaper than bit-reversed: {cheaper:.0%}")
best = (cost < cost.min() + 1e-9).nonzero()[0, 0]  # the first of equals
print("best order:", every[best].tolist())

# %% [markdown]
# **5. Other sums.** Other seeds of `one_way` sum other places. From right to
# left, how many tokens have to be combined then? Is there a seed for which
# two are always enough?

# %% [markdown] tags=["hide-cell"]
# **Solution.** There is none. Draw the free symbols as points and the sums as
# lines between them. Sums that determine the symbols have a cycle of odd
# length, and the first symbol that is found needs the whole cycle, and the
# way to it. The shortest such cycle has three lines. After that a difference
# of two tokens is enough for every neighbor of a known point.

# %% tags=["hide-cell"]
backward = directions["right-to-left"]
for seed in range(6):
    other = mixtures.one_way(half, 3, torch.Generator().manual_seed(seed))
    numbers = [combined(other, backward, n) for n in range(half, 2 * half)]
    print(f"seed {seed}: {numbers}")

# %% [markdown]
# ## The claims of this chapter
#
# What the deck says about orders, and what became of it here. The whole
# [ledger](../book/ledger.md) has one line for every claim.

# %%
ledger.table(chapter=10)
