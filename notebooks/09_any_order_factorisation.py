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
# # Any-order factorisation
#
# The deck now changes its subject. *From this point on, let's forget about
# parallel decoding and assume our dLLM only samples one token at a time.*
# With one token per step an exact model is always right (chapter 3). What is
# left is what the model has *learned*. And it has to learn more than an
# autoregressive model: not one order of generation but all of them.
#
# The claim: in real language this flexibility *backfires* (Du et al. 2025).
# It comes in parts that can be checked one by one:
#
# - any order $o$ of the positions factorizes the model,
#   $p(x) = \prod_n p(x_{o(n)} \mid x_{o(<n)})$;
# - the diffusion loss is the average over all orders, so a Transformer that
#   is trained on random orders does about as well as a diffusion model;
# - left to right and right to left are easier than a random order;
# - a model of all orders does not favor the easy ones, and its bound is
#   looser.
#
# First everything is enumerated on a source of five tokens. Then small
# networks learn it while you wait. Then come the full results, on chains
# whose exact model is known and on English.
#
# Proofs are on the page [Orders: definitions and
# proofs](../book/theory_orders.md). Logarithms are natural unless bits are
# named. In figures a line is exact, and points with bars are measured; all
# intervals are at 95 %.

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/09_any_order_factorisation.ipynb)

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
import math

import numpy as np
import pandas as pd
import torch

from dllm_tutorial import (
    bench,
    bench_study,
    config,
    joints,
    ledger,
    losses,
    order_study,
    orders,
    plots,
    schedules,
    study,
    training,
    upper_bound,
)
from dllm_tutorial.denoiser import FunctionDenoiser

torch.set_num_threads(1)
plots.style()
sizes = config.load("09_any_order_factorisation", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
generator = torch.Generator().manual_seed(SEED)

# %% [markdown]
# ## One product for every order
#
# A denoiser answers any question "what stands here, given those tokens?". An
# order asks $L$ of these questions, one after another, and multiplies the
# answers. That is the probability of a sequence *in this order*,
# $p^{(o)}(x)$.
#
# The source: a Markov chain of order two with three symbols, cut to five
# tokens. It has 243 sequences and 120 orders, few enough to look at all of
# them. Two denoisers: one answers with the true conditionals of the chain.
# The other has errors, a fixed random number added to each logit of each
# question, with standard deviation 0.5. That is what a learned model is like:
# it answers the same question always in the same way, and nobody made sure
# that its answers fit together.
#
# **Predict.** For both denoisers: does a sequence have the same probability
# in all orders? Do the probabilities of all sequences sum to one in each
# order?

# %%
L = sizes.tokens
table = torch.rand(3, 3, 3, generator=generator, dtype=torch.float64) ** 3
source = joints.MarkovChain(table / table.sum(-1, keepdim=True), L)
x = torch.cartesian_prod(*[torch.arange(3)] * L)  # all sequences
truth = source.log_prob(x)
p = truth.exp()
every = orders.all_orders(L)
denoisers = {
    "exact": order_study.with_errors(source, 0.0),
    "with errors": order_study.with_errors(source, 0.5),
}
log_p = {
    name: orders.log_probs(denoiser, x, every)
    for name, denoiser in denoisers.items()
}  # [orders, sequences] each
print(f"{len(x)} sequences, {len(every)} orders")
for name, table in log_p.items():
    sums = table.exp().sum(1)
    apart = (table.amax(0) - table.amin(0)).max()
    print(f"{name:>11}: sums from {sums.min():.6f} to {sums.max():.6f};")
    print(f"{'':>11}  orders of one sequence at most {apart:.2f} nats apart")
best = log_p["with errors"].amax(0).exp().sum()
print(f"the best order of each sequence, summed: {best:.2f}")

# %% mystnb={"figure": {"caption": "Predictions with errors, all 120 orders of five tokens, enumerated. Left: negative log-probability of one sequence in each order; the line is its true value, where exact predictions are in all orders. Right: each order as a model of the whole source, its mean excess over the entropy (KL divergence) in nats per sequence, sorted; exact predictions are at zero.", "name": "fig-all-orders"}, "image": {"alt": "Left, a histogram of 120 values of the negative log-probability, spread over some nats around a vertical line. Right, 120 values of the excess, rising from left to right, all above a dotted line at zero."}} tags=["hide-input"]
one = int(p.argmax())
figure, (left, right) = plots.panels(2, height=2.8)
left.hist(-log_p["with errors"][:, one], bins=15, color=plots.color("dllm"))
left.axvline(-truth[one].item(), color="black")
left.set(xlabel="nats", ylabel="orders", title="one sequence")
excess = (p * (truth - log_p["with errors"])).sum(1).sort().values
plots.exact(right, range(len(excess)), excess, "dllm")
plots.level(right, 0, "exact predictions", above=False)
right.set(xlabel="orders, sorted", ylabel="excess nats", title="the source")
_ = right.set_ylim(-0.12 * excess.max().item(), None)

# %% [markdown]
# **What this shows.** Every order is a distribution of its own: the sums are
# one, whatever the errors. That is what "generates in any order" means, and it
# needs no training. With exact answers all these distributions are the same
# one. With errors there are 120 of them, and the formula on the slide has a
# different left side for each $o$. To write $p(x)$ without an $o$ is to assume
# that the model is exact.
#
# The last line is a warning. Picking the best order *for each sequence* is not
# a likelihood: it sums to more than one. An order may be chosen before the
# sequence is seen, or step by step from what is already revealed, never by
# looking at the answer.
#
# **What it does not show.** How inconsistent a trained model is. Its errors
# are not independent. We come to that below.

# %% [markdown]
# ## The average over orders is the diffusion loss
#
# Diffusion training hides a random set of tokens and asks for all of them at
# once. It never mentions an order. Still, its loss in expectation, the NELBO,
# is
#
# $$\mathcal L_{\text{diff}}(x) = \mathbb E_{o \sim \text{uniform}}
# \big[-\log p^{(o)}(x)\big].$$
#
# The reason is counting: the question "position $i$ given the set $S$" is
# asked by a certain share of all orders, and the weight of a mask in the
# diffusion loss is just that share
# ([proof](../book/theory_orders.md)).
#
# **Predict.** The left side is a sum over 31 masks, the right side a mean over
# 120 orders. Do they agree for the denoiser with errors, sequence by sequence?
# Does the schedule matter?

# %%
guess = denoisers["with errors"]
over_masks = losses.exact_nelbo(guess, x)
cosine = losses.exact_nelbo(guess, x[::9], schedules.Cosine())
over_orders = -log_p["with errors"].mean(0)
for i in (one, 50, 100):
    print(
        "".join(map(str, x[i].tolist())),
        f"over masks {over_masks[i]:.6f}, over orders {over_orders[i]:.6f}",
    )
off = (over_masks - over_orders).abs().max()
print(f"all sequences agree within 1e-9: {bool(off < 1e-9)}")
off = (cosine - over_orders[::9]).abs().max()
print(f"with a cosine schedule within 1e-9: {bool(off < 1e-9)}")

# %% [markdown]
# So a masked diffusion model *is* a model of all orders at once, trained on
# their average. This is an identity, not an approximation. The two kinds of
# training differ in what one step of them sees (a set against an order), not
# in what they minimize.
#
# ### The Jensen gap
#
# A model that draws an order at random and then generates along it gives $x$
# the mean of the *probabilities*, $\bar p(x) = \mathbb E_o[p^{(o)}(x)]$. The
# loss is the mean of the *logarithms*. The logarithm of a mean is at least
# the mean of the logarithms (Jensen), so $\mathcal L_{\text{diff}}(x) \ge
# -\log \bar p(x)$: the loss is an upper bound on the model's own negative
# log-likelihood (NLL). The gap is zero only if all orders agree. Drawing
# $K$ orders and averaging their probabilities lies in between, and gets
# closer to the likelihood as $K$ grows.
#
# **Predict.** For the denoiser with errors, order these four: the entropy of
# the source, the bound, the NLL of the random-order model, the best single
# order.

# %%
bounds = upper_bound.exact_bounds(guess, x)
by_order = -(log_p["with errors"] * p).sum(1)
print("nats per sequence, enumerated")
for name, value in {
    "entropy of the source": source.entropy(),
    "best single order": by_order.min(),
    "random order (mixture)": (bounds.nll * p).sum(),
    "left to right": by_order[0],
    "bound (average)": (bounds.nelbo * p).sum(),
    "worst single order": by_order.max(),
}.items():
    print(f"{name:>23}: {value:.3f}")
jensen = ((bounds.nelbo - bounds.nll) * p).sum()
print(f"{'Jensen gap':>23}: {jensen:.3f}")

# %% [markdown]
# ### The likelihood from both sides
#
# With more than a few tokens nobody enumerates the orders. From $K$ random
# orders we get
#
# - from above: $-\log \frac1K \sum_k p^{(o_k)}(x)$, the log-mean-exp, which
#   falls with $K$;
# - from below: a tangent. The logarithm lies under its tangent at any
#   $\psi > 0$, so $\log \bar p \le \log \psi + (\bar p - \psi)/\psi$, and the
#   right side is linear in $\bar p$: an average of $p^{(o)}(x)$ over random
#   orders can stand in for it. This is the idea of TUBE (Ivanov et al. 2026,
#   arXiv 2605.24292; of that paper we could read the abstract, the beginning
#   and the project page). The choice of $\psi$ is ours: for each order the
#   mean of the *other* orders that were drawn.
#
# **Predict.** Each side is a bound *on average*. How often is a single value
# from below in truth above?

# %%
rows = []
seen = x[one].expand(sizes.repeats, L)
nll, nelbo = bounds.nll[one].item(), bounds.nelbo[one].item()
for K in sizes.draws:
    sides = upper_bound.bracket(guess, seen, K, generator=generator)
    for side, found in zip(("below", "above"), sides):
        value = found.value
        low, high = study.mean_interval(value)
        rows.append([K, side, value.mean().item(), low, high])
        wrong = value > nll if side == "below" else value < nll
        print(f"K = {K:2d} from {side}: mean {value.mean():6.3f},", end=" ")
        print(f"on the wrong side {wrong.double().mean():4.0%}", end=" ")
        print(f"(lowest {value.min():.1f}, highest {value.max():.1f})")
sides = pd.DataFrame(rows, columns=["K", "side", "mean", "low", "high"])
print(f"truth {nll:.3f}, bound of diffusion {nelbo:.3f}")

# %% mystnb={"figure": {"caption": "The negative log-likelihood of one sequence under the random-order model, enclosed from K random orders: mean over 400 repetitions, 95 % t intervals over repetitions. Lines are exact: the truth, and the NELBO, where the upper side starts at K = 1.", "name": "fig-bracket"}, "image": {"alt": "Two series of points against the number of orders on a logarithmic axis. The upper one falls from near the NELBO to the truth, the lower one rises towards the truth from below."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.0)
looks = {
    "above": ("dllm", "from above: log-mean-exp"),
    "below": ("ar", "from below: tangent"),
}
for side, (name, text) in looks.items():
    part = sides[sides.side == side]
    plots.measured(
        ax,
        part.K,
        part["mean"],
        (part.low, part.high),
        name,
        label=text,
    )
ax.axhline(nelbo, color="#767676", linestyle="--", label="NELBO, exact")
ax.axhline(nll, color="black", label="truth, exact")
ax.set_xscale("log", base=2)
ax.set_xticks(sizes.draws, sizes.draws)
ax.set(xlabel="orders K", ylabel="nats")
_ = figure.legend(loc="outside lower center", ncols=2)

# %% [markdown]
# **What this shows.** On average the two sides close in on the truth. Single
# values are noisy, and both sides are often on the wrong one. But they fail
# in different ways. The upper side is rarely *far* wrong: it lies more than
# $\log 20 = 3.0$ nats below the truth at most once in twenty times (Markov's
# inequality, whatever the model). Nothing like that holds for the lower side.
# Its mean is right because a few values are very low.
#
# That is not a weakness of this estimator. No useful bound from below with a
# stated confidence can be computed from random orders alone, as the following
# model shows. It gives one sequence probability one from left to right, and
# next to nothing in all other orders. Eight tokens have 40320 orders.
#
# **Predict.** Sixty-four random orders, 200 repetitions. Where is the truth,
# and where are both sides?

# %%
trap_length = 8


def from_the_left(states):
    """Sure where all tokens before are known and no other, else lost."""
    known = (states != 2).long()
    prefix = known.cumprod(1).sum(1)
    sure = (known.sum(1) == prefix)[:, None] & (
        torch.arange(trap_length) == prefix[:, None]
    )
    zero = torch.where(
        sure, -1e-9, -12.0
    ).double()  # log p of the right token
    return torch.stack([zero, torch.log1p(-zero.exp())], -1)


trap = FunctionDenoiser(from_the_left, 2)
zeros = torch.zeros(200, trap_length, dtype=torch.long)
both = upper_bound.bracket(trap, zeros, 64, generator=generator)
truth_there = upper_bound.exact_bounds(trap, zeros[:1]).nll.item()
print(f"truth: {truth_there:.2f} nats, ", end="")
print(f"log 8! = {math.log(math.factorial(trap_length)):.2f}")
for side, found in zip(("below", "above"), both):
    value = found.value
    print(f"from {side}: lowest {value.min():.2g},", end=" ")
    print(f"highest {value.max():.2g} nats,", end=" ")
    print(f"above the truth {(value > truth_there).double().mean():.0%}")

# %% [markdown]
# The upper side is right and useless. The lower side is either far too high,
# about every second time, or absurdly low; that is how its mean stays right.
# The one good order is drawn in one of the 630 repetitions. An order that is drawn *given
# the sequence* would find it, and gives a bound with a stated confidence. For
# a sequence that the model itself has generated such an order is at hand
# (exercise 3).

# %% [markdown]
# ## A random-order Transformer
#
# A masked denoiser pays for the likelihood of *one* order with $L$ calls.
# Autoregressive Transformers do it in one call, because row $n$ sees only the
# tokens before it. Can that be had for any order? Two changes are enough
# (Pannatier et al. 2024): feed the tokens in the order of generation, and tell
# each row *where* the token it is to predict will stand. For the order 2, 0,
# 3, 1:
#
# | row | reads the token of | which stands at | is asked for position | sees rows |
# |---|---|---|---|---|
# | 1 | (start) | – | 2 | 1 |
# | 2 | step 1 | 2 | 0 | 1, 2 |
# | 3 | step 2 | 0 | 3 | 1 to 3 |
# | 4 | step 3 | 3 | 1 | 1 to 4 |
#
# Without the fourth column the network could not know what it is asked. In
# the order 0, 1, 2, ... the fourth column is always one more than the third,
# and what is left is a causal network with learned positions: the
# autoregressive twin.
#
# **Predict.** Change the tokens that an order reveals at steps 3 to 5. Which
# rows of the output may change?

# %%
size = order_study.Size(32, 2, 2, L, 32, sizes.updates, len(x))
double = torch.float64  # the same digits on every kind of processor
network = order_study.network("uniform random", 3, size, SEED, double)
order = orders.random_order(L, generator)
before = x[[one]]
after = before.clone()
after[:, order[2:]] = (after[:, order[2:]] + 1) % 3
with torch.no_grad():
    moved = network.in_order(before, order) - network.in_order(after, order)
print(f"order {order.tolist()}, changed from step 3 on; row changes:")
print([bool(row.abs().max() > 1e-9) for row in moved[0]])

# %% [markdown]
# Row $n$ does not see its own answer or anything later. So each order is a
# distribution, as it must be.
#
# Now three trainings on our source. Two of them are the same network, taught
# left to right or a fresh random order for each sequence. The third is a
# masked diffusion model: the same blocks, looking in both directions. Because
# everything can be enumerated, the excess over the entropy is *exact* here:
# for left to right the KL divergence, for the other two the bound, averaged
# over all masks or over every fifth order.
#
# **Predict.** All three can represent the source, so all excesses can go to
# zero. Which one is fast?


# %%
some = every[::5]  # 24 of the 120 orders, left to right among them
shown = x.to(device)


def excess_of(model, name):
    """Exact nats per token above the entropy, in the order taught."""
    with torch.no_grad():
        if name == "diffusion":
            nll = losses.exact_nelbo(model, shown)
        else:
            taught = every[:1] if name == "left-to-right" else some
            nll = -orders.log_probs(model, shown, taught).mean(0)
    return (p * (nll.cpu() + truth)).sum().item() / L, 0.0


def learn(name, seed):
    updates = sizes.updates * (1 if name == "left-to-right" else 2)
    model = order_study.network(name, 3, size, seed, double)
    model.to(device)
    plan = training.TrainingConfig(
        updates,
        size.batch_size,
        4e-3,
        warmup=20,
        ema=0.95,
        seed=seed,
        optimizer="muon",
        decay="trapezoid",
    )
    steps = training.train(
        model,
        source.sample,
        plan,
        loss=order_study.order_loss(name, L),
        evaluate=lambda model: excess_of(model, name),
        evaluate_every=updates // 4,
    )
    curve = [(step.step, step.held_out[0]) for step in steps if step.held_out]
    return model, curve


KINDS = ("left-to-right", "uniform random", "diffusion")
seeds = [SEED + i for i in range(sizes.seeds)]
learned = {name: [learn(name, seed) for seed in seeds] for name in KINDS}
ends = {}
for name, runs in learned.items():
    ends[name] = [curve[-1][1] for _, curve in runs]
    low, high = study.mean_interval(ends[name])
    updates = runs[0][1][-1][0]
    print(
        f"{name:>14}, {updates} updates: {np.mean(ends[name]):.3f}", end=" "
    )
    print(f"[{low:.3f}, {high:.3f}] nats per token above the entropy")

# %% mystnb={"figure": {"caption": "Excess over the entropy of three tiny networks on the source of five tokens against updates, exact by enumeration: left to right, uniform random orders (mean over 24 of the 120), masked diffusion (bound, all masks). Means of 3 seeds, 95 % t intervals over seeds. The dotted line is an exact model.", "name": "fig-live"}, "image": {"alt": "Three falling curves. Left to right is close to zero after few updates; uniform random orders and diffusion come down more slowly."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.0)
for name, runs in learned.items():
    curve = np.array([curve for _, curve in runs])  # [seeds, points, 2]
    mean = curve[:, :, 1].mean(0)
    interval = study.mean_interval(curve[:, :, 1].T)
    text = name.replace("-", " ")
    plots.measured(
        ax,
        curve[0, :, 0],
        mean,
        interval,
        name,
        label=text,
        linestyle="-",
    )
plots.level(ax, 0, "exact", above=False)
ax.set(xlabel="updates", ylabel="excess nats per token", ylim=(-0.02, None))
_ = figure.legend(loc="outside lower center", ncols=3)

# %% [markdown]
# **What this shows.** Left to right, two tokens of context are all there is
# to learn. A random order asks for every token from every set of others, and
# that is learned more slowly by either kind of network.
#
# How much of what is left is the looseness of the bound, and how much are bad
# answers? Here we can say exactly.
#
# **Predict.** The bound of the diffusion network and its exact likelihoods:
# as a random-order model, left to right, most confident position first. Which
# of them comes near the network that learned left to right only?


# %%
def as_excess(nll):
    return (p * (nll.cpu() + truth)).sum().item() / L


def confidence(log_p):
    """Rounded: before the first token all masks look alike, a tie."""
    return log_p.amax(-1).round(decimals=9)


parts = []
for model, _ in learned["diffusion"]:
    with torch.no_grad():
        all_bounds = upper_bound.exact_bounds(model, shown)
        along = orders.log_probs(model, shown, some)
        by_rule = orders.adaptive_log_prob(model, shown, confidence)
    single = [as_excess(-row) for row in along]
    parts.append(
        {
            "the bound": as_excess(all_bounds.nelbo),
            "random order (mixture)": as_excess(all_bounds.nll),
            "left to right": single[0],
            "most confident first": as_excess(-by_rule),
            "best of 24 orders": min(single),
            "worst of 24 orders": max(single),
        }
    )
print("diffusion, excess nats per token, exact, mean of seeds:")
for name, values in pd.DataFrame(parts).items():
    low, high = study.mean_interval(values)
    print(f"{name:>23}: {values.mean():.3f} [{low:.3f}, {high:.3f}]")
print(f"{'trained left to right':>23}: {np.mean(ends['left-to-right']):.3f}")

# %% [markdown]
# The step from the first line to the second is the Jensen gap. It is real,
# and it is not the whole distance: the answers themselves are worse, in every
# order.
#
# The two kinds of network differ in one more way. A diffusion model sees a
# *set* of known tokens. The random-order network reads a *list*, so the same
# question reaches it in many forms: the four known tokens in 24 orders of
# reading. The right answer is always the same.
#
# **Predict.** How far apart are its answers? And how much would it gain by
# averaging them?

# %%
middle = L // 2
last_there = every[every[:, -1] == middle]
repeated = shown.repeat_interleave(len(last_there), 0)
readings = last_there.repeat(len(x), 1)
found = []
for model, _ in learned["uniform random"]:
    with torch.no_grad():
        answers = orders.step_log_prob(model, repeated, readings)[:, -1]
    answers = answers.view(len(x), -1).cpu()  # [sequences, readings]
    spread = (p * answers.std(1)).sum().item()
    mean = answers.logsumexp(1) - math.log(answers.shape[1])
    gain = (p * (mean - answers.mean(1))).sum().item()
    found.append([spread, gain])
for name, values in zip(("spread", "gain"), np.array(found).T):
    low, high = study.mean_interval(values)
    print(
        f"{name}: {values.mean():.3f} [{low:.3f}, {high:.3f}] nats,", end=" "
    )
    print(f"{len(last_there)} readings of one question")

# %% [markdown]
# A part of what this network has not learned is that the order of reading
# does not matter. The encoder has nothing to learn there.
#
# **What it does not show.** What happens with enough training, larger
# networks, or real text. All of this is the state at one small budget.

# %% [markdown]
# ## Against a diffusion model, in full
#
# *Random-order Transformers work about as well as a dLLM (at the end of
# training)*, says the deck. Now with larger sources, longer training and more
# seeds: three Markov chains whose exact model is known, and English. All
# networks begin with the same weights for a seed and meet the same batches.
#
# What differs between the two kinds:
#
# - *Who sees what.* The diffusion network is an encoder. It sees the known
#   tokens as a **set**, and knows nothing of the order in which they came. The
#   random-order network is a decoder. It reads them as a **list**, and has to
#   learn that the order of reading does not matter.
# - *What a batch teaches.* The decoder learns from every token, each in its
#   own context. The encoder learns from the masked half, all of them in one
#   context. So at equal updates the encoder has seen half as many supervised
#   tokens, and at equal supervised tokens it had twice the updates, and about
#   twice the computation.
# - *Positions.* The decoder needs learned vectors for positions. Our diffusion
#   models have rotary ones, which know distances. Where a second diffusion
#   model has the same learned vectors, the difference between the two shows
#   what positions are worth.
#
# Both are scored by the same bound, which an encoder and a decoder reach in
# different ways (sampled masks, sampled orders).
#
# Networks of all orders get three times the updates on chains. The learning
# rate is constant for the first 70 % of a training and then falls to zero, so
# that a curve goes down once more at its end.
#
# **Predict.** Who is ahead at equal updates? At equal supervised tokens? In
# the end?

# %%
rows = order_study.read()
chains = [c for c in rows.corpus.unique() if c not in order_study.TEXTS]
last = order_study.final(rows)
print("excess nats per token at the end, mean over seeds [95 %]:")
for corpus in chains:
    length = order_study.CHAINS["cpu", corpus][2].length
    print(f"{corpus}, entropy", end=" ")
    print(f"{order_study.chain(corpus).entropy() / length:.3f} per token")
    for name, part in last[last.corpus == corpus].groupby("order"):
        low, high = study.mean_interval(part.value)
        print(f"  {name:>28} {part.updates.max():4.0f} updates:", end=" ")
        print(f"{part.value.mean():.4f} [{low:.4f}, {high:.4f}]")

# %% mystnb={"figure": {"caption": "Excess nats per token over the exact model on three Markov chains during training: left to right, uniform random orders and diffusion (by the bound). 5 seeds, 512 sequences, 95 % t intervals over seeds; values below 0.0001 are drawn there. The exact model is at zero, below the axis. Last panel: how many times the updates of uniform random orders diffusion needs for the same excess, paired by seed, geometric mean; dotted at one and at two.", "name": "fig-chains"}, "image": {"alt": "Four panels. Three with falling curves of the excess on two logarithmic axes, left to right far below the other two. The last one shows the ratio of updates of diffusion to uniform random orders at several levels of excess for the three chains."}} tags=["hide-input"]
TINY = 1e-4


def short(corpus):
    return corpus.rsplit(",", 1)[0]


figure, axes = plots.panels(4, height=2.7)
for ax, corpus in zip(axes, chains):
    names = [
        n
        for n in order_study.ORDERS
        if n in set(last[last.corpus == corpus].order)
    ]
    names = [n for n in names if n not in ("right-to-left", "fixed random")]
    for name in names:
        curve = order_study.curves(rows, corpus, [name])
        values = [
            np.maximum(curve[c], TINY) for c in ("value", "low", "high")
        ]
        plots.measured(
            ax,
            curve.updates,
            values[0],
            values[1:],
            name,
            label=name.replace("-", " "),
            linestyle=plots.dash(name),
            linewidth=1.2,
            capsize=0,
        )
    ax.set(xscale="log", yscale="log", title=short(corpus))
axes[0].set_ylabel("excess nats")
axes[2].set(xlabel="updates", ylabel="excess nats")
for corpus, marker in zip(chains, "osD"):
    values = order_study.levels(rows, corpus, ("diffusion", "uniform random"))
    found = order_study.ratio(rows, corpus, values)
    found = found[found.seeds > 1]
    axes[3].errorbar(
        found.value,
        found.ratio,
        yerr=(found.ratio - found.low, found.high - found.ratio),
        marker=marker,
        capsize=2.5,
        label=short(corpus),
    )
for factor in (1, 2):
    plots.level(axes[3], factor, "")
axes[3].set(
    xscale="log",
    xlabel="excess nats",
    title="ratio of updates",
    ylim=(0, max(3.6, axes[3].get_ylim()[1])),
)
axes[3].set_xticks([0.01, 0.1], ["0.01", "0.1"])
axes[3].tick_params(axis="x", which="minor", labelbottom=False)
axes[3].legend(fontsize=9, loc="upper right")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %%
print("diffusion minus uniform random, excess nats per token, paired:")
for corpus in chains:
    names = set(last[last.corpus == corpus].order)
    for name in (n for n in order_study.DIFFUSION if n in names):
        gap = order_study.gap(rows, corpus, name, "uniform random")
        print(f"  {corpus}, {name}:", end=" ")
        print(f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]")
print("what diffusion needs, in multiples of uniform random orders:")
cases = [(corpus, order_study.DIFFUSION[0]) for corpus in chains]
for corpus, name in [*cases, (chains[0], order_study.DIFFUSION[1])]:
    values = order_study.levels(rows, corpus, (name, "uniform random"))
    for by in ("updates", "supervised_tokens"):
        found = order_study.ratio(rows, corpus, values, name, by=by)
        cells = [
            f"{r.ratio:.2f} [{r.low:.2f}, {r.high:.2f}]"
            for r in found[::2].itertuples()
        ]
        print(f"  {corpus}, {name}, {by.replace('_', ' ')}:")
        print("    " + ("; ".join(cells) or "no excess that both come to"))

# %% [markdown]
# **What this shows.** Left to right comes down to the exact model first, on
# every chain and by a wide margin, with a third of the updates. Between the
# two that learn all orders, diffusion is ahead in the end on all three
# chains. Before the first run we had expected that it needs *twice* the
# updates, because half of its tokens teach nothing. With rotary positions it
# needs fewer, with learned ones, which random orders have, as many. By supervised
# tokens the distance is larger still.
#
# Read the first chain twice. Between "diffusion" and "diffusion, learned
# positions" nothing differs but the vectors for positions. They make up a part
# of the lead, and not all of it. What is left lies between the encoder and
# the decoder: a set against a list, many answers from one context against one
# from each.
#
# **What it does not show.** Whether the two meet at the end of training: the
# curves still fall. All networks have the same optimizer and learning rate,
# which were tuned for neither kind. And there is no *right* comparison.
# Encoder and decoder are different classes of functions; with equal updates,
# supervised tokens and computation are not equal.

# %% [markdown]
# ### Three times as long
#
# On the first chain the curve of random orders was nearly flat before its end,
# as if it had nowhere to go. So the two go on there, with three times the
# updates and the same schedule.
#
# **Predict.** We wrote before the first run: the excess of diffusion falls by
# half again, that of random orders hardly, so that they do not meet.

# %%
more = study.read_rows("order_longer")
ends = order_study.ends(rows, more).pivot_table(
    "value", ["updates", "seed"], "order"
)
pair = ("uniform random", "diffusion")
budgets = sorted(ends.index.unique("updates"))
print(f"{chains[0]}: excess nats per token at the end, 95 %")
for budget in budgets:
    values = ends.loc[budget]
    for name in pair:
        low, high = study.mean_interval(values[name])
        print(
            f"  {budget:.0f} updates, {name:>14}: {values[name].mean():.4f}",
            end="",
        )
        print(f" [{low:.4f}, {high:.4f}]")
    gap = order_study.gap_between(
        values["diffusion"], values["uniform random"]
    )
    print(f"  {'':>12} {'difference':>15}: {gap.mean:+.4f}", end=" ")
    print(f"[{gap.low:+.4f}, {gap.high:+.4f}], {gap.seeds} seeds")
for name in pair:
    change = np.log(ends.loc[budgets[1]][name] / ends.loc[budgets[0]][name])
    low, high = np.exp(study.mean_interval(change))
    print(
        f"{name}: the longer training has {np.exp(change.mean()):.2f}",
        end=" ",
    )
    print(f"[{low:.2f}, {high:.2f}] of the excess of the shorter")

# %% mystnb={"figure": {"caption": "The first chain, three times as long: excess nats per token over the exact model during training. Dotted: where the shorter trainings of the figure before ended. 5 seeds, 512 sequences, 95 % t intervals over seeds. The learning rate is constant for 70 % of each training and then falls to zero.", "name": "fig-longer"}, "image": {"alt": "Falling curves on logarithmic axes for uniform random orders and diffusion, with a dotted line each for the end of the shorter training."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.0)
for name in pair:
    curve = order_study.curves(more, chains[0], [name])
    plots.measured(
        ax,
        curve.updates,
        curve.value,
        (curve.low, curve.high),
        name,
        linestyle=plots.dash(name),
        linewidth=1.2,
    )
    before = ends.loc[budgets[0]][name].mean()
    ax.axhline(before, color=plots.color(name), linestyle=":", linewidth=1.2)
ax.set(xscale="log", yscale="log", xlabel="updates", ylabel="excess nats")
ax.set_xticks([1000, 2000, 4000, 7200], [1000, 2000, 4000, 7200])
ax.minorticks_off()
_ = figure.legend(loc="outside lower center", ncols=2)

# %% [markdown]
# **What this shows.** The prediction fits. Diffusion goes on falling. Random
# orders keep about nine tenths of their excess, with a curve that is flat for
# most of the way. So on this chain the two do not meet with more training, and
# in the end diffusion has about a third of the excess. That the distance still
# grows is not resolved.

# %% [markdown]
# ### The same positions, larger networks
#
# Two things are still open. Diffusion has rotary positions there and random
# orders have learned ones. And one size is one size. So, for as many updates:
# diffusion with learned positions; random orders in networks of twice the
# width, and of twice the depth.
#
# **Predict.** We wrote before the first run: learned positions cost diffusion
# something, and it stays well ahead. Twice the width or the depth lowers the
# excess of random orders by less than a third, depth by more than width.

# %%
variants = study.read_rows("order_variants")
cases = {
    "random orders": more[more.order == "uniform random"],
    "twice the width": variants[variants.d_model.notna()],
    "twice the depth": variants[variants.n_layers.notna()],
    "diffusion, learned positions": variants[
        variants.order == "diffusion, learned positions"
    ],
    "diffusion": more[more.order == "diffusion"],
}
after = {
    name: order_study.final(part).set_index("seed").value
    for name, part in cases.items()
}
print(f"excess nats per token after {budgets[1]:.0f} updates, 5 seeds;")
print("mean and 95 %, minus random orders (paired), each seed")
for name, values in after.items():
    low, high = study.mean_interval(values)
    gap = order_study.gap_between(values, after["random orders"])
    seeds = " ".join(f"{v:.4f}" for v in values.sort_index())
    print(f"{name}, {cases[name].parameters.iloc[0]:,} parameters:")
    print(f"    {values.mean():.4f} [{low:.4f}, {high:.4f}],", end=" ")
    print(f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}];")
    print(f"    {seeds}")

# %% [markdown]
# **What this shows.** With all else equal, positions too, diffusion has half of
# the excess of random orders, and every seed says so. The two do not meet here.
# Learned positions take away a part of diffusion's lead and leave the larger
# part.
#
# Twice the width changes nothing. Twice the depth changes little in four seeds
# of five. The fifth leaves the common level in the middle of its training, and
# is still falling at the end. So, at twice the depth at least, the level is no
# limit of what a reader of lists can express: it is where training stays. Our
# prediction of "less than a third" holds for the means; that depth helps more
# than width is not resolved.
#
# **What it does not show.** How long the others would stay there, or another
# learning rate. And it is one chain with twelve tokens.

# %% [markdown]
# ### On English
#
# The same on letters: State of the Union addresses and the King James Bible
# in 27 symbols, windows of 32 letters. Scores are bits per letter of held-out
# windows. The floor is what counting can do: an interpolated 5-gram of the
# same training text on the same windows. A network above it has not
# learned much yet.
#
# **Predict.** Where will the three networks end, above the 5-gram or below?


# %%
def bits(gap, digits=2):
    low, high = gap.low, gap.high
    return f"{gap.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


counted = study.read_rows("order_floors")
counted = counted[~counted.backward].pivot(
    index="corpus", columns="n", values="value"
)
floor = counted[5]
for corpus, title in order_study.TITLES.items():
    cells = (f"{n}: {value:.2f}" for n, value in counted.loc[corpus].items())
    print(f"{title}, n-grams: {', '.join(cells)}")
for corpus, title in order_study.TITLES.items():
    part = last[(last.corpus == corpus) & (last.order == "uniform random")]
    budget = part.supervised_tokens.iloc[0]
    print(f"{title}, diffusion minus uniform random, bits per letter:")
    for by, at in (
        ("updates", part.updates.iloc[0]),
        ("supervised_tokens", budget),
    ):
        gap = order_study.gap(
            rows, corpus, "diffusion", "uniform random", at, by
        )
        print(f"  at {at:.0f} {by.replace('_', ' ')}: {bits(gap)}")
    gap = order_study.gap(rows, corpus, "diffusion", "uniform random")
    print(f"  each at its end: {bits(gap)}")

# %% mystnb={"figure": {"caption": "Bits per letter of held-out windows during training, against supervised tokens: networks of one order, of random orders, and diffusion (by the bound). 3 seeds, 600 windows of 32 letters, 95 % t intervals over seeds. The learning rate falls to zero at the end of each curve; the diffusion models had twice the updates. Dotted: a 5-gram of the training text on the same windows.", "name": "fig-text"}, "image": {"alt": "Two panels, State of the Union and King James Bible, with falling curves of bits per letter against supervised tokens. Left to right is lowest; diffusion and uniform random orders are far above it."}} tags=["hide-input"]
figure, axes = plots.panels(2, height=3.0, sharey=True)
for ax, (corpus, title) in zip(axes, order_study.TITLES.items()):
    names = [
        n
        for n in order_study.ORDERS
        if n in set(last[last.corpus == corpus].order)
    ]
    for name in names:
        if name in ("right-to-left", "block 4", "block 16"):
            continue
        curve = order_study.curves(rows, corpus, [name])
        plots.measured(
            ax,
            curve.supervised_tokens / 1e3,
            curve.value,
            (curve.low, curve.high),
            name,
            label=name.replace("-", " "),
            linestyle=plots.dash(name),
            linewidth=1.2,
        )
    ax.set(title=title, xlabel="thousand supervised tokens")
    plots.level(ax, floor[corpus], "5-gram", above=False)
axes[0].set(ylabel="bits per letter", ylim=(floor.min() - 0.3, None))
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %% [markdown]
# **What this shows.** At its end diffusion is ahead of random orders on both
# texts. It has had about as many supervised tokens then, and twice the
# updates and the computation. At equal updates it stands in the middle of its
# training, with a high learning rate and half of the supervised tokens, and
# is not behind for all that: see the first of the three lines for each text.
#
# All of them, left to right included, end above the 5-gram of their text. That
# tells where these networks stand: they have seen less than a million letters,
# the 5-gram has counted all of the training text.
#
# **What it does not show.** The end of training in the deck's sense. All of
# these networks are small and were trained for minutes. Where a curve still
# falls, its end is the end of our patience.

# %% [markdown]
# ## Directed orders against random ones
#
# Now the orders among themselves. All these networks are the same decoder
# with the same updates, the same computation and the same supervised tokens.
# Only the order differs: left to right, right to left, blocks of 4 or 16
# letters (left to right, shuffled inside), one fixed random order, a fresh
# random order each time. The diffusion model is shown for comparison.
#
# **Predict.** Sort them. Where is the *fixed* random order, which is one order
# like left to right, but not a directed one?

# %%
table = {}
for corpus, title in order_study.TITLES.items():
    print(f"{title}, bits per letter at the end:")
    part = last[last.corpus == corpus]
    for name in (n for n in order_study.ORDERS if n in set(part.order)):
        values = part[part.order == name].value
        low, high = study.mean_interval(values)
        table[corpus, name] = (values.mean(), low, high)
        print(f"  {name:>28}: {values.mean():.2f} [{low:.2f}, {high:.2f}]")
for corpus, title in order_study.TITLES.items():
    gap = order_study.gap(rows, corpus, "right-to-left", "left-to-right")
    print(f"{title}, right to left minus left to right: {bits(gap, 3)},")
    print(f"  resolved: {gap.resolved}; half width {gap.half:.3f}")
    for a, b in (
        ("fixed random", "left-to-right"),
        ("uniform random", "fixed random"),
        ("fixed random", "block 4"),
        ("block 16", "fixed random"),
    ):
        if (corpus, a) in table and (corpus, b) in table:
            print(f"  {a} minus {b.replace('-', ' ')}:", end=" ")
            print(bits(order_study.gap(rows, corpus, a, b)))

# %% mystnb={"figure": {"caption": "Bits per letter of held-out windows for each order, at the end of training: equal updates, computation and supervised tokens for all but diffusion, which is scored by its bound and had twice the updates at equal supervised tokens. 3 seeds, 600 windows, 95 % t intervals over seeds. Dotted: 5-gram on the same windows.", "name": "fig-order-bits"}, "image": {"alt": "Two panels with one row for each order and points with bars for the bits per letter. Left to right and right to left are lowest; blocks of 4, the fixed random order and diffusion follow; blocks of 16 and uniform random orders are highest."}} tags=["hide-input"]
names = [
    n
    for n in order_study.ORDERS
    if any((c, n) in table for c in order_study.TEXTS)
]
figure, axes = plots.panels(2, height=3.0, sharex=True, sharey=True)
for ax, (corpus, title) in zip(axes, order_study.TITLES.items()):
    for i, name in enumerate(names):
        if (corpus, name) not in table:
            continue
        mean, low, high = table[corpus, name]
        ax.errorbar(
            mean,
            i,
            xerr=[[mean - low], [high - mean]],
            color=plots.color(name),
            marker=plots.marker(name),
            capsize=2.5,
        )
    ax.set(
        title=title, xlabel="bits per letter", ylim=(len(names) - 0.5, -0.5)
    )
    ax.axvline(floor[corpus], color=plots.GRAY, linestyle=":")
_ = axes[0].set_yticks(
    range(len(names)), [n.replace("-", " ") for n in names]
)

# %% [markdown]
# **What this shows.** The two directed orders are the easiest by far, and equal
# as far as we can see: the interval of their difference holds zero, and one
# smaller than its half width could not have been seen here. Blocks of 4 and
# the fixed random order follow, then blocks of 16 and fresh random orders. We
# had expected blocks of 16 to be easier than the fixed random order, because
# on the whole they run from left to right. On the one text that has blocks of
# 16, and for this one draw of a fixed order, they are harder. It seems to count
# for more to be *one* order.
#
# **What it does not show.** *Why* a random order is harder. Has it a longer
# way to look, or more to learn? The fixed random order needs the long way and
# has only one order to learn. Chapter 10 takes this apart.

# %% [markdown]
# ## One network, scored in many orders
#
# *Since a dLLM optimises all orders uniformly*, says the deck, it does not
# concentrate its capacity on the favorable ones, and is a looser
# approximation of the data. We take the network of random orders and the
# diffusion model and score them on the same windows in many ways. The bound
# and the blocks are means over drawn orders. All others are exact likelihoods
# of something that one could sample from: one order for all sequences; the
# model's own choice of the most confident position at each step, a
# deterministic rule (Turok et al. 2026, arXiv 2603.01367); mixtures of $K$
# random orders.
#
# (The network of random orders reads what is known from left to right when it
# has to choose.)
#
# **Predict.** A network that learned left to right only stands beside them.
# Do the exact likelihoods of the others reach it? Which one comes closest?

# %%
BOTH = ("uniform random", "diffusion")
twins = {
    (corpus, name): part.set_index("seed").value
    for (corpus, name), part in last.groupby(["corpus", "order"])
}


def scored(corpus, name):
    """Scores of one network, with its own bound in front."""
    found = order_study.scores(rows, corpus, name, moved=True)
    own = "NELBO" if name == "diffusion" else "mixture of 1"
    return found.assign(bound=found[own])


for corpus, title in order_study.TITLES.items():
    twin = twins[corpus, "left-to-right"]
    alone = (twins[corpus, "fixed random"] - twin).mean()
    print(f"{title}, bits per letter, minus left to right only:")
    for name in BOTH:
        found = scored(corpus, name)
        print(f"  {name}:")
        for score in (
            "bound",
            "mixture of 32",
            "confidence",
            "left-to-right",
        ):
            gap = order_study.gap_between(found[score], twin)
            print(f"    {score:>14}: {bits(gap)}")
        jensen = (found["bound"] - found["mixture of 32"]).mean()
        inside = (found["fixed random"] - found["left-to-right"]).mean()
        print(f"    {'Jensen gap':>14}: at least {jensen:.2f} (32 orders)")
        print(f"    fixed random order minus left to right: {inside:.2f};")
        print(f"    if each has a network of its own: {alone:.2f}")

# %% mystnb={"figure": {"caption": "One network scored in many ways on the same 200 windows of held-out text, bits per letter: the network of uniform random orders and the diffusion model. The bound and the two rows of blocks are means over drawn orders; all others are exact likelihoods. 3 seeds, 95 % t intervals over seeds; moved by a constant for each seed to the level of all 600 windows. The line is the mean of the networks that learned left to right only.", "name": "fig-many-orders"}, "image": {"alt": "Two panels with ten rows, one for each way of scoring, and two points each, for uniform random orders and for diffusion. A vertical line for left to right only lies to the left of all of them."}} tags=["hide-input"]
SCORES = (
    "bound",
    "fixed random",
    "block 16",
    "block 4",
    "right-to-left",
    "left-to-right",
    "confidence",
    "mixture of 2",
    "mixture of 8",
    "mixture of 32",
)
figure, axes = plots.panels(2, height=3.8, sharey=True)
for ax, (corpus, title) in zip(axes, order_study.TITLES.items()):
    for shift, name in zip((-0.15, 0.15), BOTH):
        found = scored(corpus, name)[list(SCORES)]
        low, high = study.mean_interval(found.to_numpy().T)
        mean = found.mean()
        ax.errorbar(
            mean,
            np.arange(len(SCORES)) + shift,
            xerr=(mean - low, high - mean),
            color=plots.color(name),
            marker=plots.marker(name),
            linestyle="none",
            capsize=2.5,
            label=name if ax is axes[0] else None,
        )
    ax.axvline(
        twins[corpus, "left-to-right"].mean(),
        color="black",
        label="left to right only" if ax is axes[0] else None,
    )
    ax.set(title=title, xlabel="bits per letter")
axes[0].set_ylim(len(SCORES) - 0.5, -0.5)
axes[0].set_yticks(
    range(len(SCORES)), [score.replace("-", " ") for score in SCORES]
)
_ = figure.legend(loc="outside lower center", ncols=3)

# %% [markdown]
# **What this shows.** Three numbers take the gap apart.
#
# - *Jensen*: the bound minus the mixture of 32 orders is looseness for
#   certain. It is a small part of the gap. More orders would show more, so it
#   is "at least".
# - *Worse answers*: the same weights from left to right, minus the network
#   that learned nothing else. No bound is involved: these are two exact
#   likelihoods in the same order. This is nearly the whole gap, and it is what
#   the deck calls capacity that is not concentrated.
# - *No favorites*: how much better left to right is than one fixed random
#   order. Where each has a network of its own, it is much better. Inside a
#   network of all orders the two are nearly the same. The network has not
#   made anything of the easier order.
#
# So the bound is looser, as the deck says, and that is the smaller half of the
# story.
#
# **What it does not show.** That it must be so. A rule that picks the order
# well can be better than the bound says. Here the most confident position
# first gains little; published models gain more by such rules (Turok et al.
# 2026). The score of an *oracle* order, which looks at the answer, would not
# be a likelihood at all.

# %% [markdown]
# ## Why one token at a time matters
#
# *Parallelism is just the icing on the cake.* Does the cake matter? If a model
# is bad at one token per step, could it be good at several? In theory nothing
# forbids it: a learned model may fall into a trap step by step that it misses
# in a single leap. We ask the trained diffusion models of chapter 5: ten tasks,
# five rules, one token per step against 2, 4, 8, 16 and 24.
#
# **Predict.** In how many of the 250 settings are more tokens per step
# *better*?

# %%
panels = bench.read("panels")
panels = panels[panels.model.map(bench.kind) == "dllm"]
panels = panels[panels.rule.isin(bench_study.TOP_K)]
slow = panels[panels.value == 1]
steps = [k for k in sorted(panels.value.unique()) if k > 1]
changes = pd.concat(
    bench.difference(
        panels[panels.value == k], slow, ["task", "rule"]
    ).assign(k=k)
    for k in steps
)
right = panels.assign(right=panels.correct / panels.instances)
right = right.groupby(["task", "rule", "value"]).right.mean().unstack()
print(
    f"{len(changes)} settings: better", int((changes.low > 0).sum()), end=", "
)
print("worse", int((changes.high < 0).sum()), end=", ")
print(f"largest gain {100 * changes.difference.max():.1f} points")
for k in steps[:3]:
    rank = right[[1, k]].corr("spearman").iloc[0, 1]
    draws = [
        right.loc[list(names)][[1, k]].corr("spearman").iloc[0, 1]
        for names in np.random.default_rng(SEED).choice(
            right.index.levels[0], (200, len(right.index.levels[0]))
        )
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"rank correlation of k = 1 and k = {k:.0f}:", end=" ")
    print(f"{rank:.2f} [{low:.2f}, {high:.2f}], tasks resampled")
poor = right[right[1] < 0.5]
print("below one half at k = 1:", ", ".join(sorted(poor.index.unique(0))))
print(f"    best of them at any larger k: {poor[steps].max().max():.0%}")

# %% mystnb={"figure": {"caption": "Accuracy at k tokens per step against accuracy at one token per step of the same model by the same rule: ten tasks, five rules, mean of 3 seeds and 100 instances each. The line is equality. No point is above it beyond its 95 % interval (paired, over seeds and instances).", "name": "fig-one-at-a-time"}, "image": {"alt": "Scatter plot of accuracies between zero and one for k = 2, 4 and 8. All points lie on the diagonal, below it or barely above."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.6)
for k, name in zip(steps[:3], ("random", "confidence", "margin")):
    ax.plot(
        right[1],
        right[k],
        plots.marker(name),
        color=plots.color(name),
        alpha=0.8,
        label=f"k = {k:.0f}",
    )
ax.plot([0, 1], [0, 1], color="black", linewidth=1)
ax.set(xlabel="accuracy, one token per step", ylabel="accuracy, k per step")
_ = ax.legend()

# %% [markdown]
# **What this shows.** On these tasks one token per step is a ceiling. What is
# bad there stays bad; what is good there may survive parallel steps (Copy,
# Reverse) or not (Shuffle). So the deck's order of business is right:
# first the cake.
#
# **What it does not show.** A law. The tasks have answers that can be checked,
# and only two of them are hard for our models at one token per step, so there
# was little room for a surprise.

# %% [markdown]
# ## What we have seen
#
# - Every order is a distribution. With exact conditionals it is the same one
#   for all orders, with learned ones it is not, and the factorization on the
#   slide needs an $o$ on its left side.
# - The diffusion loss is the average over all orders, exactly. The model that
#   draws an order at random is better than that bound by the Jensen gap, and
#   random orders enclose it only on average.
# - A Transformer that reads tokens in the order of generation, and is told
#   where to predict, scores any order in one call.
# - Random orders did not do as well as diffusion, on chains and on text. They
#   were behind, although each of their batches teaches twice the tokens. Some
#   of it is positions, as far as one chain tells; the rest lies between encoder
#   and decoder. Where we trained longest they stay at a level that twice the
#   width does not move, and diffusion goes on.
# - Directed orders are far easier than random ones. Left to right and right to
#   left are equal within what three seeds can see. A fixed random order lies
#   between.
# - The gap between a model of all orders and one of a single order has two
#   parts, a loose bound and worse answers. Scored in one order the second shows
#   alone, and it is the larger one.
# - On our tasks nothing that fails at one token per step succeeds at more.

# %% [markdown]
# ## Exercises
#
# **1. Two tokens by hand.** Two coins, a denoiser that says: each coin alone
# is fair; given that the first is heads, the second is heads with probability
# $0.9$; given that the second is heads, the first is heads with probability
# $0.5$. For the sequence heads, heads: the NLL in both orders, the bound, the
# NLL of the random-order model, and the Jensen gap?

# %% [markdown] tags=["hide-cell"]
# **Solution.** The orders give $\frac12 \cdot 0.9$ and $\frac12 \cdot 0.5$.
# The bound is the mean of their logarithms, the likelihood the logarithm of
# their mean.

# %% tags=["hide-cell"]
a, b = 0.5 * 0.9, 0.5 * 0.5
average = -(math.log(a) + math.log(b)) / 2
mixture = -math.log((a + b) / 2)
print(f"orders {-math.log(a):.3f} and {-math.log(b):.3f},", end=" ")
print(f"bound {average:.3f}, mixture {mixture:.3f},", end=" ")
print(f"gap {average - mixture:.3f}")

# %% [markdown]
# **2. Consistency is rare.** In the model with errors, what size may the
# errors have so that no sequence has two orders more than 0.1 nats apart?
# How does the Jensen gap shrink with the size of the errors?

# %% [markdown] tags=["hide-cell"]
# **Solution.** The distance between orders is proportional to the errors, about
# 14 nats times their size, so that .1 nats allow a size of about .007. The
# Jensen gap is proportional to their *square*: it is half the variance of the
# log-probability over the orders, for small errors.

# %% tags=["hide-cell"]
for scale in (0.5, 0.1, 0.05, 0.01):
    model = order_study.with_errors(source, scale)
    values = orders.log_probs(model, x, every)
    apart = (values.amax(0) - values.amin(0)).max()
    found = upper_bound.exact_bounds(model, x)
    gap = ((found.nelbo - found.nll) * p).sum()
    half = (p * values.var(0, correction=0)).sum() / 2
    print(f"{scale:4}: orders {apart:.2f} nats apart,", end=" ")
    print(f"gap {gap:.5f}, half the variance {half:.5f}")

# %% [markdown]
# **3. A bound with a confidence.** Let the model generate its own sequences,
# each along a random order, and keep the orders. Such an order is a draw from
# $r(o) \propto p^{(o)}(x)$, given the sequence. With
# `upper_bound.posterior_estimate` it gives a bound from below that holds, for
# the sum over all sequences, with probability $1 - \delta$ up to
# $\log 1/\delta$ nats. Enclose the mean NLL of 2000 sequences of the model
# with errors, and compare with the exact value.

# %% [markdown] tags=["hide-cell"]
# **Solution.** The margin, $\log 20 = 3.0$ nats for 95 %, is for all
# sequences together; for the mean it is next to nothing. That the model's own
# sequences are needed is the price: for text that a person wrote, nobody has
# drawn the order.

# %% tags=["hide-cell"]
drawn = orders.random_orders(L, 2000, generator)
own = upper_bound.sample_in_order(guess, drawn, generator=generator)
below = upper_bound.posterior_estimate(
    guess, own, drawn, 16, generator=generator
)
above = losses.log_mean_exp_orders(guess, own, 16, generator=generator)
exactly = upper_bound.exact_bounds(guess, own).nll.mean()
margin = math.log(20) / len(own)
print(f"from below {below.value.mean() - margin:.3f},", end=" ")
print(f"exact {exactly:.3f}, from above {above.value.mean():.3f}")

# %% [markdown]
# **4. How many seeds?** From the rows: how many pairs of networks would have
# been needed to resolve a difference of 0.01 bits per letter between right to
# left and left to right on State of the Union?

# %% [markdown] tags=["hide-cell"]
# **Solution.** The half width of a paired t interval is
# $t_{n-1}\, s / \sqrt n$. The spread $s$ of the differences is estimated
# from few pairs, so this is a rough answer.

# %% tags=["hide-cell"]
from scipy import stats

pairs = (
    twins["sotu", "right-to-left"] - twins["sotu", "left-to-right"]
).dropna()
n = 2
while stats.t.isf(0.025, n - 1) * pairs.std() / n**0.5 > 0.01:
    n += 1
print(f"spread of the pairs {pairs.std():.4f} bits: {n} pairs")

# %% [markdown]
# **5. Better than its parts.** Inside one network of all orders a mixture of
# random orders has a better likelihood than any of the single orders that we
# scored. How can a mean of probabilities be better than each of them? From
# the rows: how many nats per window does a mixture of $K$ orders gain, and
# could it be more than $\log K$?

# %% [markdown] tags=["hide-cell"]
# **Solution.** No order is the best for all windows. Each errs on other ones,
# and the mean of the probabilities is carried by those that do not err. Over
# the *best* of its orders on a window a mixture gains nothing and loses at
# most $\log K$; over their mean it may gain any amount. Here the gains grow
# ever more slowly with $K$. A mixture of $K$ orders is also $K$ times the work.

# %% tags=["hide-cell"]
window = order_study.SIZES["cpu"].length * math.log(2)
for name in BOTH:
    found = scored("sotu", name)
    print(f"{name}, nats per window gained by mixtures of K orders:")
    for K in order_study.MIXED[1:]:
        gain = found["mixture of 1"] - found[f"mixture of {K}"]
        print(f"  K = {K:2d}: {gain.mean() * window:.2f}", end=" ")
        print(f"(log K = {math.log(K):.2f})")

# %% [markdown]
# ## The claims of this chapter
#
# What the deck says about orders as a family, and what became of it here. The
# whole [ledger](../book/ledger.md) has one line for every claim.

# %%
ledger.table(chapter=9)
