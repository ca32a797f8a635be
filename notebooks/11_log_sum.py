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
# # Can we fix the ELBO?
#
# A diffusion model is a model of all orders at once, trained on their average
# (chapter 9), and most orders are hard (chapter 10). The deck proposes a
# repair. Diffusion minimizes a *sum of logarithms*,
#
# $$\mathcal L_{\text{diff}}(x)
#   = -\frac{1}{|O|} \sum_{o \in O} \log p^{(o)}(x),$$
#
# and maybe we should minimize the *logarithm of a sum* instead:
#
# $$\mathcal L_{\text{correct}}(x)
#   = -\log \sum_{o \in O} p(o)\, p^{(o)}(x).$$
#
# *This will get dominated by the best generation order, rather than requiring
# all orders to generate well.* With four permutations, says the deck, the
# log-sum loss recovers the loss of left to right and of right to left, albeit
# with four times the computation. The deck shows a figure. We had no numbers
# behind it: the post it comes from (Du et al. 2025) was open to us only at its
# beginning. So our runs stand for themselves, at their own small size.
#
# Below, the *average* is the first loss and *log-sum* the second. First we
# compare the two exactly. Then we build a source on which log-sum should be
# right, and train on it live. Then come the four orders on English, and the
# bill.
#
# Proofs are on the page [Orders: definitions and
# proofs](../book/theory_orders.md). Logarithms are natural unless bits are
# named. In figures a line without markers is exact or a single run, and
# points with bars are measured; all intervals are at 95 %.

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/11_log_sum.ipynb)

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
import torch

from dllm_tutorial import (
    config,
    joints,
    ledger,
    log_sum_study,
    losses,
    mixtures,
    order_study,
    orders,
    plots,
    study,
    training,
)
from dllm_tutorial.networks import TransformerConfig

torch.set_num_threads(1)
plots.style()
sizes = config.load("11_log_sum", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
generator = torch.Generator().manual_seed(SEED)

# %% [markdown]
# ## Sum of logarithms, logarithm of a sum
#
# A source whose sequences can all be listed: a Markov chain with three
# symbols. A model of it: the exact conditionals with a fixed normal error on
# every logit, as in chapter 9. The larger the errors, the less do its answers
# fit together, and the further apart are its orders. Four orders: left to
# right, right to left, and two random ones.
#
# **Predict.** The average minus log-sum is never negative (Jensen). When is it
# zero? How far can log-sum be above the best of the four orders?

# %%
L = sizes.tokens
table = torch.rand(3, 3, generator=generator, dtype=torch.float64) ** 2
chain = joints.MarkovChain(table / table.sum(-1, keepdim=True), L)
every = torch.cartesian_prod(*[torch.arange(3)] * L)  # all sequences
truth = chain.log_prob(every).exp()
four = torch.cat(
    [
        orders.left_to_right(L)[None],
        orders.right_to_left(L)[None],
        orders.random_orders(L, 2, generator),
    ]
)
print("nats per sequence, mean over the source; four orders")
print("errors  average  log-sum   gap    KL(p||r)  best order  + log 4")
lines, worst = [], 0.0
for scale in sizes.errors:
    guess = order_study.with_errors(chain, scale)
    log_p = orders.log_probs(guess, every, four)  # [orders, sequences]
    average = losses.average_loss(log_p)
    found = losses.log_sum_loss(log_p)
    r = found.log_responsibilities
    divergence = -(r.mean(0) + math.log(4))  # of 1/4 each from r
    worst = max(worst, (average - found.loss - divergence).abs().max())
    best = -log_p.amax(0)
    assert (found.loss < best + math.log(4) + 1e-9).all()
    assert (found.loss > best - 1e-9).all()
    row = [(truth * v).sum() for v in (average, found.loss, divergence, best)]
    lines.append([value.item() for value in row])
    a, s, kl, b = lines[-1]
    print(f"{scale:6.2f} {a:8.3f} {s:8.3f} {a - s:7.3f} {kl:8.3f}", end=" ")
    print(f"{b:10.3f} {b + math.log(4):10.3f}")
print(f"gap = KL for each sequence, within 1e-9: {bool(worst < 1e-9)}")
lines = np.array(lines)

# %% mystnb={"figure": {"caption": "Both losses on a source of five tokens, for models with larger and larger errors; mean over the source, exact. Shaded: between the best of the four orders, picked for each sequence, and log 4 above it. Log-sum stays inside, the average does not. At zero errors all orders agree and all losses are the entropy.", "name": "fig-logsum-scale"}, "image": {"alt": "Nats per sequence against the size of the errors. Three curves start at the entropy. The average rises steeply; log-sum rises slowly inside a shaded band above the best order."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.0)
average, mixed, _, best = lines.T
top = best + math.log(4)
ax.fill_between(sizes.errors, best, top, color="#eeeeee", zorder=0)
plots.exact(ax, sizes.errors, average, "dllm", label="average")
plots.exact(ax, sizes.errors, mixed, "ar", label="log-sum")
plots.exact(ax, sizes.errors, best, "ngram", label="best order")
plots.level(ax, chain.entropy(), "entropy", above=False)
ax.set(xlabel="standard deviation of the errors", ylabel="nats")
_ = ax.legend(loc="upper left")

# %% [markdown]
# **What this shows.** The average goes up with *every* order, log-sum with the
# best ones. (The best order of each sequence, picked after looking at it, may
# even lie below the entropy: it is no model, its probabilities sum to more
# than one.) For each sequence the gap is a divergence:
#
# $$\mathcal L_{\text{diff}} - \mathcal L_{\text{correct}}
#   = \mathrm{KL}\big(p(o) \,\|\, r(o)\big), \qquad
#   r(o) \propto p(o)\, p^{(o)}(x).$$
#
# $r(o)$ is the *responsibility* of an order: its share in the probability of
# this sequence. The gap is zero where all orders agree. With exact
# conditionals they do, so on a perfect model the two losses are the same
# ([proof](../book/theory_orders.md)). And for equal weights
#
# $$\min_o \ell_o \;\le\; \mathcal L_{\text{correct}}
#   \;\le\; \min_o \ell_o + \log |O|, \qquad \ell_o = -\log p^{(o)}(x).$$
#
# That is what "dominated by the best order" means, exactly: one good order is
# enough, and not naming it beforehand costs at most $\log |O|$ nats for the
# whole sequence. We call what it costs the *tax*.
#
# **What it does not show.** That training with log-sum gives a better model.
# With a perfect network nothing would change. The repair is for a network
# that cannot learn all orders, or has no time to.

# %% [markdown]
# ### Who gets the gradient
#
# The gradient of log-sum is $\sum_o r(o)\, \nabla \ell_o$: the gradients of
# the orders, weighted by their responsibilities. That is a *mixture of
# experts* over orders, trained by expectation and maximization in one: the
# responsibilities say which expert a sequence belongs to, and the expert
# learns from it. With a learned $p(o)$, the logits of $p(o)$ have the gradient
# $p(o) - r(o)$.
#
# **Predict.** Two orders, 32 tokens, and one order is cheaper by a quarter of
# a nat for each token. What is the share of the other order in the gradient?

# %%
tiny = TransformerConfig(
    3, L, 16, 1, 2, attention="any-order", positions="learned"
)
torch.manual_seed(SEED)
double = torch.float64  # the same digits on every kind of processor
network = mixtures.OrderMixture(tiny, four, learned=True, dtype=double)
torch.nn.init.normal_(network.head.weight, std=0.3)  # orders differ
weights = list(network.blocks.parameters())
log_p = network.log_probs(every[[5]])
found = losses.log_sum_loss(log_p, network.log_prior())
r = found.log_responsibilities.exp()[:, 0].detach()
whole = torch.autograd.grad(found.loss[0], weights, retain_graph=True)
on_prior = torch.autograd.grad(
    found.loss[0], network.prior, retain_graph=True
)
each = [
    torch.autograd.grad(-log_p[k, 0], weights, retain_graph=True)
    for k in range(4)
]
off = max(
    (g - sum(r[k] * each[k][i] for k in range(4))).abs().max()
    for i, g in enumerate(whole)
)
print("an untrained network, one sequence, responsibilities", end=" ")
print(" ".join(f"{value:.2f}" for value in r))
print(f"gradient = weighted gradients, within 1e-9: {bool(off < 1e-9)}")
off = (on_prior[0] - (1 / 4 - r)).abs().max()
print(f"gradient of the logits = p - r, within 1e-9: {bool(off < 1e-9)}")
print("share of an order that is behind by d nats per token, 32 tokens:")
for d in (0.01, 0.05, 0.1, 0.25, 0.5):
    share = 1 / (1 + math.exp(32 * d))
    print(f"  d = {d:4.2f}: {share:.1g}")

# %% [markdown]
# The nats in the exponent are those of whole sequences. So small differences
# for each token become all or nothing: *hard* assignment. An order that is a
# little behind early in training gets next to no gradient, and stays behind.
# Keep this in mind.
#
# ### A pitfall: nats per token
#
# Losses are usually divided by the number of tokens. If that happens *before*
# the exponential, the log-sum loss is silently turned into something else:
#
# $$-L \log \sum_o p(o)\, e^{-\ell_o / L}
#   \;=\; -\frac1\beta \log \sum_o p(o)\, p^{(o)}(x)^{\beta}
#   \quad\text{with}\quad \beta = 1/L .$$
#
# The right side is the *tempered* family: $\beta = 1$ is log-sum, and
# $\beta \to 0$ is the average.
#
# **Predict.** Here are four orders of a sequence of 32 letters, with costs
# as we will meet them below: two directed orders half a nat apart, two random
# ones ten nats behind. Where between average and log-sum is $\beta = 1/32$?

# %%
rows = log_sum_study.read()
names = log_sum_study.SETS["sotu"]
nll = torch.tensor(
    [
        [log_sum_study.values(rows, "sotu", "average", name)[0]]
        for name in names
    ],
    dtype=torch.float64,
)  # [orders, 1]: what four orders cost a network that was taught all four
tokens = log_sum_study.SIZES["sotu", "cpu"].length
ends = {
    "average": losses.average_loss(-nll),
    "nats per token first": tokens * losses.log_sum_loss(-nll / tokens).loss,
    "log-sum": losses.log_sum_loss(-nll).loss,
}
print("four orders:", ", ".join(f"{v:.1f}" for v in nll[:, 0]), "nats")
for name, value in ends.items():
    print(f"{name:>21}: {value.item():.2f} nats")
for name, beta in (("nats per token first", 1 / tokens), ("log-sum", 1.0)):
    r = losses.log_sum_loss(-nll, power=beta).log_responsibilities.exp()
    shown = ", ".join(f"{v:.2f}" for v in r[:, 0])
    print(f"responsibilities, {name}: {shown}")

# %% mystnb={"figure": {"caption": "The tempered loss of one sequence of 32 letters in four orders against the power, exact. Left: the loss, between the average and log-sum. Right: the responsibilities of the four orders. Dash-dotted: a power of 1/32, which is what dividing by the number of tokens too early amounts to.", "name": "fig-tempered"}, "image": {"alt": "Two panels with a logarithmic axis of the power from 0.001 to 1. Left, the loss falls from the average to log-sum, most of it above a power of 1/32. Right, four responsibilities start at a quarter; two go to zero."}} tags=["hide-input"]
betas = np.geomspace(1e-3, 1, 40)
tempered = [losses.log_sum_loss(-nll, power=beta) for beta in betas]
shares = torch.stack([t.log_responsibilities[:, 0].exp() for t in tempered])
figure, (left, right) = plots.panels(2, height=2.9)
plots.exact(left, betas, [t.loss.item() for t in tempered], "dllm")
plots.level(left, ends["average"].item(), "average", above=False)
plots.level(left, ends["log-sum"].item(), "log-sum")
for name, share in zip(names, shares.T):
    text = name.replace("-", " ")
    plots.exact(right, betas, share, name, label=text)
for ax in (left, right):
    ax.axvline(1 / tokens, color="#767676", linestyle="-.", linewidth=1)
    ax.set(xscale="log", xlabel=r"power $\beta$")
left.set_ylabel("nats")
right.set_ylabel("responsibility")
_ = figure.legend(
    *right.get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %% [markdown]
# **What this shows.** Divide first, and you train the average again, or nearly
# so: every order keeps a large share. The tempered family is useful on
# purpose, though. If $\beta$ rises during training, all orders learn
# first and then compete. We call this *annealed* below.

# %% [markdown]
# ## A source where log-sum should be right
#
# When would a mixture over orders be the right model? When *different
# sequences* are easy in *different orders*. Here is such a source. Chapter 10
# has one that is easy to learn from left to right and hard from right to left:
# free symbols, then sums of two of them. We write every other sequence
# backward. Now half of the sequences belong to the one order and half to the
# other, and nothing says which.
#
# An exact model pays the entropy, in either order. A model that can only find
# sums of two known tokens does not: the other direction holds tokens that
# combine three or more.
#
# **Predict.** Four trainings: left to right alone, the average of both
# directions, log-sum from three random starts. Which come down to the
# entropy? (Right to left alone would be the same problem as left to right
# alone: the source is its own mirror image.)

# %%
n = sizes.symbols
one = mixtures.one_way(n, 3, torch.Generator().manual_seed(3)).to(device)
source = mixtures.either_direction(one)
x, p = source.support, source.probs
forward = one.log_prob(x).exp()  # of the half that is not turned round
forward = forward / forward.sum()
both = torch.stack([orders.left_to_right(2 * n), orders.right_to_left(2 * n)])
hard = log_sum_study.hard_tokens(one, both[1])
easy = log_sum_study.hard_tokens(one, both[0])
entropy = source.entropy()
trap = entropy + hard * math.log(3)
alone = entropy + hard * math.log(3) / 2
print(f"{len(x)} sequences of {2 * n} tokens, entropy {entropy:.2f} nats")
print("tokens that combine more than two, in the order a sequence is")
print(f"written for: {easy}, in the other order: {hard}")
print(f"every sequence in its own order: {entropy:.2f} nats")
print(f"one order for all:               {alone:.2f} nats")
print(f"every sequence in the wrong one: {trap:.2f} nats")

# %%
shape = TransformerConfig(
    3, 2 * n, 32, 2, 2, attention="any-order", positions="learned"
)


@torch.no_grad()
def state(model):
    """NLL of the mixture and each order; left to right's share, forward."""
    log_p = model.log_probs(x)
    found = losses.log_sum_loss(log_p)
    share = found.log_responsibilities[0].exp()
    each = -(log_p * p).sum(1)
    return [(p * found.loss).sum(), (forward * share).sum(), *each]


def learn(method, seed):
    """What enumeration says along one training: [(update, ...), ...]."""
    torch.manual_seed(seed)
    taught = both if method in log_sum_study.METHODS else both[:1]
    model = mixtures.OrderMixture(shape, taught, dtype=double)
    model.to(device)
    plan = training.TrainingConfig(
        sizes.updates,
        32,
        3e-3,
        warmup=30,
        ema=0.98,
        seed=seed,
        optimizer="muon",
    )
    seen = []

    def watch(model):
        seen.append([float(value) for value in state(model)])
        return seen[-1][0], 0.0

    steps = training.train(
        model,
        source.sample,
        plan,
        loss=log_sum_study.method_loss(method, sizes.updates),
        evaluate=watch,
        evaluate_every=sizes.updates // 10,
    )
    at = [step.step for step in steps if step.held_out]
    return np.column_stack([at, seen])


FIRST = SEED + 4  # of these starts one gets it right
runs = {
    ("left-to-right", FIRST): learn("left-to-right", FIRST),
    ("average", FIRST): learn("average", FIRST),
}
for seed in range(FIRST, FIRST + sizes.starts):
    runs["log-sum", seed] = learn("log-sum", seed)
print("at the end, nats per sequence, exact: the mixture; each order by")
print("itself; responsibility of left to right for forward sequences")
for (method, seed), run in runs.items():
    _, mixed, share, *each = run[-1]
    shown = " ".join(f"{value:5.2f}" for value in each)
    print(f"{method:>13}, start {seed}: {mixed:5.2f};", end=" ")
    print(f"{shown}; {share:.2f}")

# %% mystnb={"figure": {"caption": "A source half of whose sequences are easy from left to right, the others from right to left; tiny networks, 300 updates of 32 sequences, every run drawn, exact by enumeration. Left: negative log-likelihood of the mixture. Floor: the entropy; the upper dotted line is what a mixture pays that finds all sums of two tokens and has every sequence in the wrong order. Right: responsibility of left to right for the sequences that are easy from left to right.", "name": "fig-either"}, "image": {"alt": "Left, five falling curves; one run of log-sum reaches the entropy, the others stop at the upper dotted line or above it, near left to right alone. Right, the responsibility starts at a half and goes to one or to zero."}} tags=["hide-input"]
KEY = {"left-to-right": "left_to_right", "average": "dllm", "log-sum": "ar"}
figure, (left, right) = plots.panels(2, height=3.1)
for (method, seed), run in runs.items():
    at, mixed, share = run[:, :3].T
    style = {
        "label": method.replace("-to-", " to ") if seed == FIRST else None,
        "marker": plots.marker(KEY[method]),
        "markersize": 3.5,
        "linewidth": 1.2,
    }
    plots.exact(left, at, mixed, KEY[method], **style)
    if method != "left-to-right":
        plots.exact(right, at, share, KEY[method], **style)
plots.level(left, entropy, "entropy", above=False)
plots.level(left, trap, "wrong order", above=False)
left.set(xlabel="updates", ylabel="nats", ylim=(entropy - 0.7, None))
right.set(xlabel="updates", ylabel="responsibility", ylim=(-0.04, 1.04))
_ = figure.legend(
    *left.get_legend_handles_labels(), loc="outside lower center", ncols=3
)

# %% [markdown]
# **What this shows.** Where log-sum gets it right, it gets it completely
# right: it finds out which sequence belongs to which order, nobody told it,
# and the mixture comes down to the entropy. Each order by itself is then
# *worse* than before, because it has left half of the sequences alone. The
# mixture is far better than every order in it. And there is no tax here: the
# $\log 2$ for the order is the coin that the source itself has thrown
# (exercise 4).
#
# But starts differ. In a run that ends at the upper line nearly every sequence
# sits in the *wrong* order, and stays there. Nothing is wrong with the loss:
# the wrong assignment has a higher value. It is a trap on the way. The order
# that was a little ahead early gets the sequence and nearly all of its
# gradient, and the other order never gets to show that it could do better.
# Log-sum is dominated by the order that is ahead *now*.
#
# The average falls into no trap. It teaches both orders all sequences, half
# of which are hard for each. Its responsibilities lean the right way in the
# end; only nothing is made of it.
#
# **What it does not show.** How often. These three starts were chosen so that
# both ends can be seen: of twelve that we tried one came down to the entropy,
# and one came near.

# %% [markdown]
# ### Five seeds, a larger source
#
# The same with eight free symbols, that is 16 tokens, and larger networks that
# train longer. All methods begin with the same weights for a seed and meet the
# same batches. *Annealed* raises the power $\beta$ from nearly 0 to 1 over the
# first 70 % of the updates. *Learned $p(o)$* trains the weights of the orders
# too. *Equal compute* is left to right with twice the sequences in each
# update, which costs as much as two orders do.
#
# What we had written down before the first run: *the mixture comes close to
# the entropy and every single order stays away from it.*

# %%
EITHER = "either direction"
METHODS = log_sum_study.METHODS
EQUAL = log_sum_study.EQUAL_COMPUTE
floor = log_sum_study.limited_level(wrong=0.0)
wrong = log_sum_study.limited_level(wrong=1.0)
half = log_sum_study.limited_level(wrong=0.5)
print(
    f"with all sums of two: entropy {floor:.2f}, one order for all", end=" "
)
print(f"{half:.2f}, wrong order {wrong:.2f}")
print("nats per sequence at the end, seeds 0 to 4 | mean [95 %]")
ends = {
    **{name: (name, "mixture") for name in METHODS},
    "left to right": ("left-to-right", "left-to-right"),
    "right to left": ("right-to-left", "right-to-left"),
    "equal compute": (EQUAL, "left-to-right"),
}
for name, which in ends.items():
    found = log_sum_study.values(rows, EITHER, *which)
    low, high = study.mean_interval(found)
    shown = " ".join(f"{value:5.2f}" for value in found)
    print(f"{name:>13}: {shown} | {found.mean():.2f}", end=" ")
    print(f"[{low:.2f}, {high:.2f}]")
print("minus the mixture of the average, paired by seed:")
for name in ("log-sum", "annealed", "learned p(o)"):
    gap = log_sum_study.gap(rows, EITHER, ends[name], ("average", "mixture"))
    print(f"{name:>13}: {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]")
below = {
    name: int((log_sum_study.values(rows, EITHER, *which) < wrong).sum())
    for name, which in ends.items()
}
print("runs of 5 that end below the upper line:")
print("   ", ", ".join(f"{name} {n}" for name, n in below.items() if n))

# %% mystnb={"figure": {"caption": "Held-out negative log-likelihood on the source of two directions with 16 tokens at the end of training, one point a seed, 5 seeds, 400 sequences; mixtures for the methods with both orders. Dotted: the entropy, and what a mixture pays that finds all sums of two tokens and has every sequence in the wrong order.", "name": "fig-either-seeds"}, "image": {"alt": "Seven rows of five points each. Average and single orders lie far right, near 14 nats. Log-sum, annealed and learned weights are split: some points near the entropy of 9.5, the others near 13 to 14."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.2)
looks = ["dllm", "ar", "klass", "margin", "left_to_right"]
looks += ["right_to_left", "dilated"]
for i, (which, look) in enumerate(zip(ends.values(), looks)):
    found = log_sum_study.values(rows, EITHER, *which)
    ax.plot(
        found,
        np.full(len(found), i) + np.linspace(-0.2, 0.2, len(found)),
        plots.marker(look),
        color=plots.color(look),
    )
for value, text in ((floor, "entropy"), (wrong, "wrong order")):
    ax.axvline(value, color="#767676", linestyle=":")
    ax.annotate(text, (value + 0.05, -0.72), fontsize=9.5, color="#555555")
ax.set_yticks(range(len(ends)), list(ends))
_ = ax.set(xlabel="nats per sequence", ylim=(len(ends) - 0.5, -0.9))

# %% [markdown]
# **What this shows.** Our prediction was half right. Single orders stay away,
# with twice the sequences too. The average stays away as well. Of the runs
# with log-sum two come close to the entropy, where no single order gets, and
# three do not: the seeds fall into two groups. A mean over such groups
# describes no run, and its interval against the average holds zero.
#
# Annealing was meant against the trap. It does not remove it here: three of
# five runs end above the line with it, too. The weights $p(o)$ have nothing to
# learn on this source, where both orders are due to half of the sequences.
#
# **What it does not show.** These rows hold the level of each run, and not the
# responsibilities of each kind of sequence. That a run of log-sum above the
# line has the wrong assignment is a guess from the level: in the live runs,
# where we can look, it is so. The single orders and the average are above the
# line for another reason: they have not found all sums of two yet.

# %% [markdown]
# ## Four orders on text
#
# Now the deck's experiment. Letters of State of the Union addresses, windows
# of 32, four orders: left to right, right to left and two fixed random ones.
# One any-order network for all four, 1000 updates of 16 windows, five seeds.
#
# What we had written down before the first run:
#
# 1. Log-sum comes within .1 bits per letter of a network that is trained from
#    left to right alone, *by leaving all other orders alone*.
# 2. It pays $\log 4 / L$ for that.
# 3. Left to right and right to left each win some seeds.
# 4. Annealing ends in the same place, or shares between the two directed
#    orders.
# 5. A learned $p(o)$ saves the tax.
#
# **Predict.** Draw the cost of each of the four orders along training, for
# the average and for log-sum.

# %% mystnb={"figure": {"caption": "Bits per letter of each of the four orders during training, one line a seed, 5 seeds, 400 held-out windows of 32 letters. All four methods begin with the same weights and meet the same batches. Dotted: guessing (27 equally likely symbols), and a count model of four letters of context, counted on the whole training text, on all held-out windows.", "name": "fig-four"}, "image": {"alt": "Four panels, average, log-sum, annealed and learned weights. With the average all four orders come down together. With log-sum and learned weights one directed order of each seed comes down and the three others rise above guessing. Annealed, both directed orders come down and the random ones rise late."}} tags=["hide-input"]
counts = study.read_rows("order_text")
counts = counts[(counts.order == "left-to-right") & (counts.by == "time")]
counts = counts.set_index("k").bits_per_character
figure, axes = plots.panels(4, height=2.5, sharex=True, sharey=True)
for ax, method in zip(axes, METHODS):
    for name in reversed(names):
        path = log_sum_study.paths(rows, "sotu", method, name)
        path = log_sum_study.in_bits("sotu", path)
        for seed in path:
            plots.exact(
                ax,
                path.index,
                path[seed],
                name,
                linewidth=1.1,
                label=None if seed else name.replace("-", " "),
            )
    plots.level(ax, math.log2(27), "guessing" if ax is axes[0] else "")
    plots.level(ax, counts[4], "counts" if ax is axes[0] else "")
    ax.set_title(method)
for ax in axes[2:]:
    ax.set_xlabel("updates")
for ax in axes[::2]:
    ax.set_ylabel("bits per letter")
_ = figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)

# %%
print("the order that wins each seed, its responsibility, and the update")
print("from which on it has been above .99")
who = log_sum_study.winners(rows, "sotu")
for method in METHODS:
    part = who[who.method == method]
    for order, group in part.groupby("order"):
        seeds = ", ".join(map(str, group.seed))
        low, high = group.responsibility.min(), group.responsibility.max()
        print(f"{method:>13}: {order}, seeds {seeds};", end=" ")
        print(f"{low:.2f} to {high:.2f};", end=" ")
        print("never" if group["update"].isna().any() else "from", end=" ")
        print(", ".join(f"{u}" for u in group["update"].dropna()))

# %% mystnb={"figure": {"caption": "Responsibility of left to right on held-out windows, one line a seed, 5 seeds; nearly all of the rest belongs to right to left. Dashed, last panel: the learned weight p(o) of left to right.", "name": "fig-four-shares"}, "image": {"alt": "Four panels. With the average the lines stay near a half. With log-sum and with learned weights they go to one or to zero within the first third of training. Annealed, they drift slowly to values between 0.3 and 0.9."}} tags=["hide-input"]
figure, axes = plots.panels(4, height=2.1, sharex=True, sharey=True)
for ax, method in zip(axes, METHODS):
    for quantity, dash in (("responsibility", "-"), ("prior", "--")):
        if quantity == "prior" and method != "learned p(o)":
            continue
        path = log_sum_study.paths(
            rows, "sotu", method, "left-to-right", quantity
        )
        ax.plot(path.index, path, dash, color="black", linewidth=1.1)
    ax.set(title=method, ylim=(-0.04, 1.04))
for ax in axes[2:]:
    ax.set_xlabel("updates")
for ax in axes[::2]:
    ax.set_ylabel("responsibility")

# %% [markdown]
# **What this shows.** With the average, all four orders come down together,
# and the directed ones are ahead. With log-sum one directed order takes
# everything within the first third of the training. The other three are
# left alone, so thoroughly that they become *worse than guessing*: the network
# is used for one thing only, and its answers to other questions are
# confidently wrong. Which of the two directed orders wins depends on the
# seed. Trained alone the two are level, as the next table shows, so a small
# lead early in training decides: *symmetry breaking*.
#
# Annealing keeps both directed orders alive: by the time the power is high,
# both have learned much, and some sequences prefer the one, some the other.
# Learned weights collapse like log-sum, and $p(o)$ follows slowly.

# %% [markdown]
# ### Does it recover the loss of left to right?
#
# **Predict.** Bits per letter at the end: the order that won with log-sum, the
# mixture, and networks that were trained in one direction only, on the same
# sequences.


# %%
def bits(gap):
    gap = log_sum_study.in_bits("sotu", gap)
    return f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


singles = {
    "left to right": ("left-to-right", "left-to-right"),
    "right to left": ("right-to-left", "right-to-left"),
    "equal compute": (EQUAL, "left-to-right"),
}
ends = {"average, all orders": ("average", "average")} | {
    f"{method}, {score}": (method, score)
    for method in METHODS
    for score in ("mixture", "best order")
}
ends |= singles
print("bits per letter at the end, 5 seeds; minus left to right, paired")
for name, which in ends.items():
    found = log_sum_study.values(rows, "sotu", *which)
    found = log_sum_study.in_bits("sotu", found)
    gap = log_sum_study.gap(rows, "sotu", which, singles["left to right"])
    print(f"{name:>24}: {found.mean():.3f} {bits(gap)}")
tokens = log_sum_study.SIZES["sotu", "cpu"].length
most = math.log(4) / math.log(2) / tokens
print(f"tax, bits per letter (at most log 4 / L = {most:.4f}):")
for method in METHODS:
    print(f"{method:>24}: {bits(log_sum_study.tax(rows, 'sotu', method))}")
above = log_sum_study.recovered(rows, "sotu", "log-sum")
print("log-sum, directed orders minus the same order trained alone:")
for name, column in above.items():
    gap = order_study.gap_between(column, 0 * column)
    print(f"{name:>24}: {bits(gap)}")
unused = who.assign(rest=1 - who.prior).groupby("method").rest.mean()
for method in ("log-sum", "learned p(o)"):
    print(
        f"{method}: {unused[method]:.0%} of the samples are drawn in one",
        end="",
    )
    print(" of the other three orders")

# %% mystnb={"figure": {"caption": "Bits per letter at the end of training, means of 5 seeds with 95 % t intervals over seeds, 400 held-out windows of 32 letters. Filled: the mixture, or the single order that was trained; open: the best order of a mixture. Equal compute is left to right with four times the sequences. Dotted: count models with two and four letters of context, counted on the whole training text, on all held-out windows.", "name": "fig-four-end"}, "image": {"alt": "Seven rows. The average is highest, then annealed, then log-sum; learned weights, left to right and right to left are level; left to right at equal compute is far lower, nearest to the count model of four letters."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.3)
listed = [*METHODS, *singles]
for i, (name, look) in enumerate(zip(listed, looks)):
    scores = ["mixture", "best order"] if name in METHODS else [None]
    for score in scores:
        which = (name, score) if score else singles[name]
        found = log_sum_study.values(rows, "sotu", *which)
        found = log_sum_study.in_bits("sotu", found)
        low, high = study.mean_interval(found)
        mean = found.mean()
        ax.errorbar(
            mean,
            i + (0.18 if score == "best order" else 0),
            xerr=[[mean - low], [high - mean]],
            color=plots.color(look),
            marker=plots.marker(look),
            markerfacecolor="white" if score == "best order" else None,
            capsize=2.5,
        )
for k, text in ((2, "counts, 2 letters"), (4, "counts, 4 letters")):
    ax.axvline(counts[k], color="#767676", linestyle=":")
    shift, side = (-0.01, "right") if k == 2 else (0.01, "left")
    note = {"fontsize": 9.5, "color": "#555555", "ha": side}
    ax.annotate(text, (counts[k] + shift, -0.75), **note)
ax.set_yticks(range(len(listed)), listed)
_ = ax.set(xlabel="bits per letter", ylim=(len(listed) - 0.5, -1.0))

# %% [markdown]
# **What this shows.** The deck's curve can be had: the order that wins with
# log-sum is as good as the same order trained alone, as far as five seeds can
# tell. It is recovered *by collapse*. And it is left to right **or** right to
# left, never both in one run. The mixture is worse by the tax, which is paid
# in full, $\log 4$ nats a window.
#
# Our five predictions: the first holds on average, with an interval that ends
# just above .1. The second and the third hold. Of the fourth the second half
# came: annealing shares, and the shared network is worse than the collapsed
# one. It had two orders to learn in the same time. The fifth holds: nearly all
# of the tax is saved, and with learned weights the mixture is level with left
# to right alone.
#
# The average is not as bad as it looks, either. More than half of what it
# seems to lose against log-sum is a matter of scoring: its own loss counts the
# random orders. The same weights scored as a mixture are level with their best
# order. What remains is the price of teaching one network four orders in the
# time of one.
#
# **A tax on likelihood, a ruin for samples.** A likelihood hides one thing. A
# mixture is *sampled* by drawing an order from $p(o)$. With equal weights and
# four orders, three samples of four are drawn in an order that is worse than
# guessing. In the likelihood this costs $\log 4$ nats; to a reader it is three
# garbled texts of four. With learned weights it is fewer, and with the
# winner named it is none: but then it is a left-to-right model, or a
# right-to-left one.
#
# **What it does not show.** What a larger network does. One that could hold
# four orders without loss would have less reason to drop three. All networks
# here end above a count model of four letters, which has read the whole
# training text; they are far from done.

# %% [markdown]
# ## Four times the computation
#
# Every update runs the network once for each order. For the same price, left
# to right alone can see four times the sequences.
#
# **Predict.** Which of the two is better, and by how much?

# %%
cost = log_sum_study.price(rows, "sotu")
base = cost.loc["left-to-right"]
print("one update: sequences, orders x computation, processor seconds,")
print("as multiples of left to right alone")
for method, row in cost.iterrows():
    print(f"{method:>29}: {row.sequences / base.sequences:.0f}", end=" ")
    print(f"{row.gigaflops / base.gigaflops:.2f}", end=" ")
    print(f"{row.cpu_seconds / base.cpu_seconds:.1f}")
gap = log_sum_study.gap(
    rows, "sotu", ("log-sum", "mixture"), singles["equal compute"]
)
print("bits per letter at equal compute:")
print(f"  log-sum minus left to right: {bits(gap)}")
gap = log_sum_study.gap(
    rows, "sotu", ("learned p(o)", "mixture"), singles["equal compute"]
)
print(f"  learned p(o) minus left to right: {bits(gap)}")
gap = log_sum_study.gap(
    rows, "sotu", ("average", "mixture"), ("log-sum", "mixture")
)
print(f"  the two mixtures, average minus log-sum: {bits(gap)}")
gap = log_sum_study.gap(
    rows, EITHER, ("log-sum", "mixture"), singles["equal compute"]
)
print("the source of two directions, nats per sequence:")
print(f"  log-sum minus left to right: {gap.mean:+.2f}", end=" ")
print(f"[{gap.low:+.2f}, {gap.high:+.2f}]")

# %% mystnb={"figure": {"caption": "Bits per letter during training against computation, State of the Union, means of 5 seeds with 95 % t intervals over seeds, 400 held-out windows. The learning rate of every run falls to zero at its own end, so only the ends can be compared. Dotted: a count model with four letters of context, counted on the whole training text.", "name": "fig-compute"}, "image": {"alt": "Five falling curves against teraflops. Left to right alone stops at a quarter of the computation, level with where log-sum and learned weights stop later; left to right at equal compute falls far below all others."}} tags=["hide-input"]
figure, (ax,) = plots.panels(1, columns=1, height=3.3)
shown = {
    "average": ("mixture", "dllm", "average, as a mixture"),
    "log-sum": ("mixture", "ar", "log-sum"),
    "learned p(o)": ("mixture", "margin", "learned p(o)"),
    "left-to-right": ("left-to-right", "left_to_right", "left to right"),
    EQUAL: ("left-to-right", "dilated", "left to right, equal compute"),
}
for method, (score, look, text) in shown.items():
    curve = log_sum_study.curves(rows, "sotu", method, score)[1::3]
    in_bits = log_sum_study.in_bits("sotu", curve[["value", "low", "high"]])
    plots.measured(
        ax,
        1000 * curve.petaflops,
        in_bits.value,
        (in_bits.low, in_bits.high),
        look,
        linestyle=plots.dash(look),
        linewidth=1.2,
        label=text,
    )
plots.level(ax, counts[4], "counts, 4 letters")
ax.set(xlabel="teraflops", ylabel="bits per letter")
_ = figure.legend(loc="outside lower center", ncols=2)

# %% [markdown]
# **What this shows.** On text the computation is thrown away. Three of the four
# passes are for orders that are dropped within the first third of training,
# and after that they have responsibilities of zero: they still cost, and they
# change nothing. The same computation spent on more sequences from left to
# right buys about twice the distance between the two mixtures, that of the
# average and that of log-sum.
#
# Counted in operations the factor is four, as the deck says. In seconds it was
# less here, because a network this small keeps no processor busy with 16
# windows. That is a property of our size.
#
# One could save most of it: when an order's responsibility is zero, skip it.
# Then nothing remains of the idea but a short competition at the start that
# picks a direction.
#
# **What it does not show.** That computation is always better spent so. On the
# source of two directions the two runs of log-sum that found the assignment
# are below every run of a single order at equal compute. Over all seeds the
# difference is not resolved, because of the three that did not.

# %% [markdown]
# ## What it buys and what it costs
#
# - *Correct* is the right word for the log-sum loss: it is the exact negative
#   log-likelihood of a model that draws its order first. The average is an
#   upper bound on it, and the gap is a divergence between the orders'
#   weights before and after seeing the sequence.
# - It is dominated by one order, and in training that is the order that is
#   ahead. On text this is one of the two directed ones, after a short race, and
#   the result is a left-to-right or a right-to-left network with a tax.
# - So on text the log-sum loss does not make a better any-order model. It makes
#   an autoregressive one. What any-order generation was for (filling in,
#   orders that adapt, several tokens per step) is given up on the way: all
#   other orders are worse than guessing.
# - Where sequences differ in their best order, the mixture is a model that no
#   single order gives, and it finds the assignment without being told; or it
#   does not, and stays in a wrong one.
# - It costs $|O|$ passes for each update. For all $L!$ orders it cannot be
#   computed at all, only bounded (chapter 9).
#
# Related ideas let the order depend on what has been revealed, instead of
# mixing a fixed set. Learning-order autoregressive models learn a policy for
# the next position with a variational bound (Wang et al. 2025, arXiv
# 2503.05979). Masked diffusion with a schedule for each position has a law of
# orders that is not uniform and can be learned (Garg et al. 2025, arXiv
# 2511.19152). An implementation of log-sum over fixed permutations we did not
# find in the public repositories that we searched.

# %% [markdown]
# ## Exercises
#
# **1. By hand.** Two orders with equal weights cost 50 and 53 nats. Compute the
# average, log-sum, both responsibilities, and check that the gap is the
# divergence. How far is log-sum from the best order, and how far could it be?

# %% [markdown] tags=["hide-cell"]
# **Solution.** $r = 1 / (1 + e^{-3}) = 0.953$ for the first. Log-sum is
# $50 + \log 2 - \log(1 + e^{-3}) = 50.645$; the average is 51.5, so the gap is
# 0.855. $\mathrm{KL} = \tfrac12 \log \frac{1/2}{r} + \tfrac12 \log
# \frac{1/2}{1 - r}$ is the same. The tax is 0.645 of at most $\log 2 = 0.693$.

# %% tags=["hide-cell"]
pair = torch.tensor([[50.0], [53.0]], dtype=torch.float64)
found = losses.log_sum_loss(-pair)
r = found.log_responsibilities[:, 0].exp()
gap = losses.average_loss(-pair) - found.loss
divergence = -(0.5 * (2 * r).log()).sum()
print(f"average {pair.mean():.3f}, log-sum {found.loss.item():.3f},", end=" ")
print(f"r {r[0]:.3f} and {r[1]:.3f}")
print(f"gap {gap.item():.3f} = KL {divergence:.3f}")

# %% [markdown]
# **2. How small a lead is enough?** Of two orders one has to be ahead by $d$
# nats per token to get 99 % of the gradient. What is $d$ for windows of 32
# letters and for documents of 1000 tokens? And for the loss with the pitfall?

# %% [markdown] tags=["hide-cell"]
# **Solution.** $1 / (1 + e^{-Ld}) = .99$ gives $d = \log 99 / L$. With the
# pitfall the exponent has no $L$: $d = \log 99 = 4.6$ nats *per token*, which
# no order is ahead by.

# %% tags=["hide-cell"]
for length in (32, 1000):
    print(f"L = {length}: d = {math.log(99) / length:.4f} nats per token")
print(f"with the pitfall: d = {math.log(99):.1f}")

# %% [markdown]
# **3. The weights alone.** Keep a network as it is and learn only $p(o)$, by
# EM: replace $p(o)$ by the mean of $r(o)$ over the source, again and again.
# Start from equal weights with the model of errors of standard deviation 1
# from the first section. Does the likelihood ever fall? Where does $p(o)$ go?

# %% [markdown] tags=["hide-cell"]
# **Solution.** It never falls, and the weights move to the orders whose models
# are closest to the source. At the end $p(o)$ is the mean of $r(o)$, which is
# where the gradient of its logits, $p(o) - r(o)$, is zero on average.

# %% tags=["hide-cell"]
guess = order_study.with_errors(chain, 1.0)
log_p = orders.log_probs(guess, every, four)
prior, costs = torch.full((4,), 0.25, dtype=torch.float64), []
for _ in range(300):
    found = losses.log_sum_loss(log_p, prior.log())
    costs.append((truth * found.loss).sum().item())
    prior = found.log_responsibilities.exp() @ truth
single = -(log_p @ truth)
print("each order:", " ".join(f"{value:.3f}" for value in single))
print("p(o) at the end:", " ".join(f"{value:.3f}" for value in prior))
print(f"mixture from {costs[0]:.3f} to {costs[-1]:.3f},", end=" ")
print(f"never up: {bool(np.diff(costs).max() < 1e-12)}")

# %% [markdown]
# **4. When is it not a tax?** Show that the mixture pays no tax on the source
# of two directions: compare its entropy with that of the source in one
# direction.

# %% [markdown] tags=["hide-cell"]
# **Solution.** A sequence that is possible in one direction only has half the
# probability it had there, so it costs $\log 2$ more, and an exact model has
# to pay that too: which direction it is is *information*. The entropy is below
# $n \log 3 + \log 2$ only because of sequences that are possible in both
# directions. A mixture with equal weights and each half in its own order
# gives every sequence its true probability.

# %% tags=["hide-cell"]
log_two = torch.stack([one.log_prob(x), one.log_prob(x.flip(1))])
ideal = losses.log_sum_loss(log_two).loss
both_ways = (log_two > -math.inf).all(0)
print(f"one direction {one.entropy():.3f}, plus log 2:", end=" ")
print(f"{one.entropy() + math.log(2):.3f}; the source {entropy:.3f}")
print(f"ideal mixture {(p * ideal).sum():.3f},", end=" ")
print(f"{int(both_ways.sum())} of {len(x)} sequences in both directions")

# %% [markdown]
# **5. Why annealing can help, and when it does not.** A toy without a network.
# Of two orders A costs 99 nats and B 100. A has this lead of 1 nat, but can
# only come down to 55; order B can come down to 50. In each update an order
# comes down by $r \cdot 0.02 \cdot (\text{cost} - \text{its limit})$. Where
# does log-sum end? Raise the power from .01 to 1 over 10 updates, 100, and 400.

# %% [markdown] tags=["hide-cell"]
# **Solution.** With log-sum the lead decides before the limits matter, and A
# takes all. If the power rises slowly, both come down while the race is open,
# B ends lower and takes over. If it rises too fast, A still wins. Annealing
# buys time. It does not help an order that needs even more of it.


# %% tags=["hide-cell"]
def race(rise, updates=1000):
    cost, limit = np.array([99.0, 100.0]), np.array([55.0, 50.0])
    for step in range(updates):
        power = min(1.0, 0.01 + step / rise) if rise else 1.0
        lead = power * (cost.min() - cost)
        share = np.exp(lead) / np.exp(lead).sum()
        cost = cost - share * 0.02 * (cost - limit)
    return cost


for rise in (0, 10, 100, 400):
    a, b = race(rise)
    print(f"rise over {rise:3d} updates: A {a:.1f}, B {b:.1f} nats")

# %% [markdown]
# ## The claims of this chapter
#
# What the deck says about repairing the bound, and what became of it here. The
# whole [ledger](../book/ledger.md) has one line for every claim.

# %%
ledger.table(chapter=11)
