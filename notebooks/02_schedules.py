# ---
# jupyter:
#   accelerator: GPU
#   jupytext:
#     notebook_metadata_filter: accelerator
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Schedules
#
# A masked diffusion model removes masks little by little. The *schedule* says
# how fast. The literature has many, and papers argue about which is best. In
# this chapter you will see what a schedule can change and what it cannot:
#
# - the training loss does **not** depend on it, for any model;
# - the samples of a T-step sampler do, by an amount we can compute exactly;
# - which schedule wins is a property of the data. Cosine is not always better.
#
# Definitions and proofs are on the page
# [Diffusion: definitions and proofs](../book/theory_diffusion.md).

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/02_schedules.ipynb)

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

import matplotlib.pyplot as plt
import torch
from scipy import stats

from dllm_tutorial import (
    config,
    exact,
    gumbel,
    joints,
    ledger,
    losses,
    masking,
    plots,
    schedules,
    study,
)
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import FunctionDenoiser

torch.set_num_threads(1)
plots.style()
sizes = config.load("02_schedules", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
NAMES = ["linear", "cosine", "cosine_mdlm", "polynomial", "geometric"]
S = {name: schedules.by_name(name) for name in NAMES}

# %% [markdown]
# ## What a schedule is
#
# Time $t$ runs from 0 (a clean text) to 1 (masks only). The schedule
# $\alpha_t$ is the probability that a token is *still kept* at time $t$. So
# $\alpha_0 = 1$ and $\alpha_1 = 0$. Sampling walks backward, from $t = 1$ to
# $t = 0$. A step from $t$ to an earlier $s$ reveals each masked token with
# probability
#
# $$\frac{\alpha_s - \alpha_t}{1 - \alpha_t}.$$
#
# Training weighs the loss at time $t$ by $-\alpha_t' / (1 - \alpha_t)$, the
# same probability per unit of time.
#
# | name | $\alpha_t$ | weight | used by |
# |---|---|---|---|
# | linear | $1 - t$ | $1/t$ | LLaDA, MD4 |
# | cosine (MD4) | $1 - \cos(\frac{\pi}{2}(1-t))$ | $\frac{\pi}{2}\tan(\frac{\pi}{2}(1-t))$ | MaskGIT, MD4 |
# | cosine (MDLM) | $\cos(\frac{\pi}{2}t)$ | $\frac{\pi}{2}\cot(\frac{\pi}{4}t)$ | MDLM, BD3-LM |
# | polynomial | $1 - t^w$, here $w = 2$ | $w/t$ | MD4 |
# | geometric | $e^{-b}$, $b = \beta_{min}^{1-t}\beta_{max}^{t}$ | $b \ln(\beta_{max}/\beta_{min}) / (e^b - 1)$ | SEDD, MD4's table |
#
# Two different curves go by the name *cosine*. One bends up where the other
# bends down, so always say which.
#
# **Predict.** The slope of the MD4 cosine is zero at $t = 1$, where sampling
# starts. Which of the two cosines reveals few tokens in its first steps?

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels. Left: five curves of alpha against time, all falling from one to zero; the MD4 cosine lies below the straight line of the linear schedule, the MDLM cosine above it, the geometric one stays near one until late. Right: their loss weights on a logarithmic axis, large near time zero."}, "figure": {"caption": "Five published schedules (left) and the weight of the loss that belongs to each (right, logarithmic). Closed forms, exact. After figure 1 of Shi et al. (2024).", "name": "fig-schedules"}}
t = torch.linspace(0.005, 1, 400, dtype=torch.float64)
figure, (left, right) = plots.panels(2, height=3.2)
for name, schedule in S.items():
    plots.exact(left, t, schedule.alpha(t), name)
    plots.exact(right, t, schedule.weight(t).clamp(min=1e-3), name)
left.set(xlabel="time t", title="tokens kept, $\\alpha_t$")
right.set(
    xlabel="time t", title="loss weight", yscale="log", ylim=(0.05, 300)
)
figure.legend(
    *left.get_legend_handles_labels(), loc="outside lower center", ncols=3
)
plt.show()

# %% [markdown]
# **What this shows.** The MD4 cosine has lost most of its tokens by the middle
# of the time axis and is flat near $t = 1$: sampling starts slowly. The MDLM
# cosine is flat at the other end. The geometric curve does nearly everything
# in a short stretch of time.
#
# **What it does not show.** Nothing here says which one is good.
#
# A published table is a claim like any other, so we check it. The weight is a
# derivative, and a derivative can be measured.
#
# **Predict.** The weight has to be positive: tokens are only ever revealed on
# the way back. Table 4 of Shi et al. (2024) lists $\alpha'/(1 - \alpha)$,
# which then has to be negative. In its geometric row stands a factor
# $\log(\sigma_{min}/\sigma_{max})$ after a minus sign. Is the row negative?

# %%
geometric, at, h = S["geometric"], 0.5, 1e-6
slope = (geometric.alpha(at + h) - geometric.alpha(at - h)).item() / (2 * h)
numeric = slope / geometric.masked(at).item()
low, high = geometric.beta_min, geometric.beta_max
b = low ** (1 - at) * high**at
printed = -math.exp(-b) / (1 - math.exp(-b)) * b * math.log(low / high)
print(f"alpha'/(1 - alpha) at t = 1/2, measured: {numeric:8.4f}")
print(
    f"the package, minus its weight:           {-geometric.weight(at):8.4f}"
)
print(f"the table's row, with beta for sigma:    {printed:8.4f}")

# %% [markdown]
# **What this shows.** The row has the right size and the wrong sign; its symbol
# $\sigma$ should be $\beta$ as well. With $\log(\beta_{max}/\beta_{min})$ it is
# right. It is a misprint, not a bug: the authors' published code has no
# geometric schedule that could have used it.
#
# ## How many tokens each step reveals
#
# In $T$ equal steps, a step from $t$ to $s$ is expected to reveal
# $L(\alpha_s - \alpha_t)$ of $L$ tokens. An image of $64 \times 64$ pixels and
# three colors, as in figure 2 of Shi et al. (2024), has 12,288 tokens.
#
# **Predict.** With $T = 256$ steps, how many tokens does the linear schedule
# reveal in each? And the MD4 cosine in its very first step?

# %% tags=["hide-input"] mystnb={"image": {"alt": "Tokens revealed at each of 256 sampling steps. Linear is flat at 48. The MD4 cosine rises from nearly zero to 75, the MDLM cosine and the polynomial fall to nearly zero, the geometric one has a narrow peak above 200. One noisy sampled run follows each of linear and cosine inside its shaded interval."}, "figure": {"caption": "Tokens revealed at each of 256 steps, of 12,288. Lines: expected, exact. Dots: one run of the ancestral sampler (n = 1, seed 0) for linear and MD4 cosine; shaded: 95 % binomial interval around the expectation. After figure 2 (right) of Shi et al. (2024).", "name": "fig-reveals"}}
N, T = 12288, 256
blank = FunctionDenoiser(
    lambda x: torch.zeros(*x.shape, 2, device=x.device), mask_id=2
)
start = torch.full((1, N), blank.mask_id, device=device)
step = torch.arange(1, T + 1)
figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.6))
for name, schedule in S.items():
    expected = schedule.expected_reveals(N, T)
    plots.exact(ax, step, expected, name)
    if name in ("linear", "cosine"):
        run = generate(
            blank,
            start,
            strategies.ancestral(schedule, T),
            temperature=1.0,
            seeds=torch.tensor([SEED]),
            record=True,
        )
        left = (run.history.states[:, 0] == blank.mask_id).sum(-1)
        one = -left.diff().cpu()
        low, high = stats.binom.interval(0.95, N, expected / N)
        inside = ((one.numpy() >= low) & (one.numpy() <= high)).sum()
        plots.band(ax, step, low, high, name)
        ax.plot(step, one, ".", ms=3, color=plots.color(name))
        print(
            f"{name:7} first {expected[0]:5.2f}  middle "
            f"{expected[T // 2]:5.2f}  last {expected[-1]:5.2f}; "
            f"run: {inside} of {T} inside"
        )
        assert one.sum() == N
ax.set(xlabel="sampling step", ylabel="tokens revealed", ylim=(0, 265))
figure.legend(loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# **What this shows.** Linear reveals $12288/256 = 48$ tokens a step. The cosine
# starts with $12288\,(1 - \cos\frac{\pi}{512}) \approx 0.23$: most first steps
# reveal nothing at all. It ends with $12288 \sin\frac{\pi}{512} \approx 75.4$.
# A real run scatters around its expectation as independent coins do.
#
# **What it does not show.** Whether few tokens first is a good idea. For that
# we need the data.
#
# ## The loss does not care
#
# The training loss, the NELBO, is an integral over time of the weighted loss of
# the masked tokens. Different schedules weigh different times.
#
# **Predict.** Take a *bad* model, whose conditionals fit no joint
# distribution. Will the NELBO of one sequence differ between schedules? By
# how much?
#
# Our bad model takes the exact conditionals of a Markov chain and flattens them
# by the power 0.6. No joint distribution has these conditionals.
# [`exact_nelbo`](../book/api/foundations.md) sums over all $2^6$ masks and
# integrates over $t$ with each schedule in turn.

# %%
stay, move = 0.9, 0.1
transition = torch.tensor([[stay, move], [move, stay]], dtype=torch.float64)
chain = joints.MarkovChain(transition, 6)
flat = FunctionDenoiser(lambda x: 0.6 * chain(x), chain.mask_id)
x0 = torch.tensor([[0, 0, 1, 1, 1, 0]])
limit = losses.exact_nelbo(flat, x0).item()
print(f"average over all 720 orders: {limit:.6f} nats")
extra = {"log_linear": schedules.LogLinear(eps=1e-3)}
for name, schedule in {**S, **extra}.items():
    value = losses.exact_nelbo(flat, x0, schedule).item()
    few = losses.exact_t_step(flat, x0, 4, schedule).item()
    print(
        f"{plots.label(name):14} NELBO {value:.6f}, low by "
        f"{max(limit - value, 0):.6f}   in 4 steps {few:.4f}"
    )
    ideal = name not in ("geometric", "log_linear")
    assert abs(value - limit) < (1e-10 if ideal else 0.01)

# %% [markdown]
# **What this shows.** All ideal schedules give the same number to the last
# digit, for a model that is wrong. Put $u = 1 - \alpha_t$ in place of time and
# the schedule drops out of the integral: it only says how fast you walk, not
# where. And the number is the loss averaged over all orders of generation
# ([Theorem: order equivalence](../book/theory_diffusion.md#order-equivalence)).
#
# The last column does depend on the schedule: it belongs to a sampler that takes
# four steps, and four steps fall in different places. (For one sequence and a
# wrong model it can even come out smaller than the continuous value.)
#
# Geometric and log-linear come out a little *low*. Log-linear stops short of
# $\alpha_1 = 0$ and leaves out the highest mask rates; geometric starts short
# of $\alpha_0 = 1$ and leaves out the lowest. Either makes the model look
# better than it is.
#
# **Predict.** Log-linear with $\varepsilon = 10^{-3}$ leaves out mask rates
# above $1 - \varepsilon$. There nearly everything is masked. About how many
# nats are lost? (All-masked, this model's loss on the sequence is
# `exact_t_step` with one step.)

# %%
blind = losses.exact_t_step(flat, x0, 1).item()
for eps in (1e-1, 1e-2, 1e-3, 1e-4):
    value = losses.exact_nelbo(flat, x0, schedules.LogLinear(eps)).item()
    print(
        f"eps = {eps:.0e}: lost {limit - value:.2e} nats "
        f"({(limit - value) / limit:.2%}), eps x blind loss {eps * blind:.2e}"
    )

# %% [markdown]
# **What this shows.** A published $\varepsilon$ of $10^{-3}$ costs about a tenth
# of a percent: small, always in the flattering direction, and avoidable. Exact
# ends are used everywhere in this book.
#
# ## The sampler does care
#
# With $T$ steps some tokens are revealed together, and those are drawn
# independently of each other. Let $p_T$ be the law of what comes out. On a small
# exact joint we can enumerate it and compute $\mathrm{KL}(p \,\Vert\, p_T)$ with
# no sampling error. The denoiser is exact, so all of this is decoding error.
#
# Start with two tokens: the four cities of the deck. Both are revealed in the
# same step with probability $w = \sum_i (\Delta\alpha_i)^2$. So
# $p_T = (1 - w)\,p + w\,p_1 p_2$: the truth, mixed with a little "New City".
#
# **Predict.** Which schedule makes $w$ smallest, if the $\Delta\alpha_i$ have
# to sum to 1?

# %%
cities = joints.cities()
print("four cities   T x w   KL exact   -log(1 - w/2)")
for name, schedule in S.items():
    w = schedule.expected_reveals(1, 32).square().sum().item()
    kl = exact.ancestral_kl(cities, schedule, [32])[0]
    print(
        f"{plots.label(name):14}{32 * w:5.3f}{kl:11.6f}"
        f"{-math.log(1 - w / 2):13.6f}"
    )
print(f"pi^2 / 8 = {math.pi**2 / 8:.3f}")

# %% [markdown]
# **What this shows.** With two tokens, equal steps are best: numbers that sum to
# 1 have the smallest sum of squares when they are equal. Linear gives
# $w = 1/T$; either cosine about $\pi^2/(8T)$, 23 % more. No schedule beats
# linear here.
#
# Now more tokens. Four joints:
#
# - **cities**: two words;
# - **shuffle**: four items in a random order;
# - **copies**: one of three tokens, written six times;
# - **chain**: the sticky Markov chain of above, six tokens.
#
# **Predict.** On which of these is it wise to start slowly, as the MD4 cosine
# does? Think of what you know after the first token.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Four panels of KL divergence against the number of steps, both logarithmic, one line for each of five schedules. On cities and shuffle the linear schedule is lowest; on copies the MD4 cosine is lowest; on the chain linear and MD4 cosine cross. The geometric schedule is highest throughout."}, "figure": {"caption": "KL(p || p_T) in nats against the number of steps T, for four joints with exact denoisers. Exact, by enumeration. Lower is better. No schedule is best on all four.", "name": "fig-quality"}}
copies = joints.TableJoint(torch.arange(3)[:, None].repeat(1, 6), None, 3)
J = {
    "cities": cities,
    "shuffle": joints.shuffle(4),
    "copies": copies,
    "chain": chain,
}
STEPS = [1, 2, 4, 8, 16, 32, 64]
divergence = {
    (case, name): exact.ancestral_kl(joint, schedule, STEPS)
    for case, joint in J.items()
    for name, schedule in S.items()
}
figure, axes = plots.panels(4, height=2.7, sharex=True)
for ax, case in zip(axes, J, strict=True):
    for name in S:
        plots.exact(ax, STEPS, divergence[case, name], name)
    ax.set(title=case, xscale="log", yscale="log")
    ax.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    ax.minorticks_off()
for ax in axes[2:]:
    ax.set_xlabel("steps T")
for ax in axes[::2]:
    ax.set_ylabel("KL (nats)")
figure.legend(
    *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3
)
plt.show()

# %%
print("KL of cosine (MD4) over KL of linear; best of the five at T = 4")
print("          " + "".join(f"  T={steps:<3d}" for steps in STEPS[1:]))
for case in J:
    rows = zip(divergence[case, "cosine"], divergence[case, "linear"])
    ratios = [cosine / linear for cosine, linear in rows][1:]
    best = min(S, key=lambda name: divergence[case, name][2])
    print(f"{case:9}" + "".join(f"{r:7.2f}" for r in ratios), "  ", best)

# %% [markdown]
# **What this shows.** There is no best schedule. On *copies* one known token
# tells all others, so the only mistake is to reveal two before anything is
# known. Start slowly: the MD4 cosine wins. On *shuffle* it is the other way
# round: the last items depend on each other most. On the *chain* the cosine wins
# with two and four steps and loses with many.
#
# Images look like *copies* (a pixel is nearly told by its neighbors), which
# fits the published result that cosine helps there (figure 2, left, of Shi et
# al. 2024). We did not test images.
#
# **What it does not show.** These are independent reveals. Rules that *choose*
# what to reveal come in
# [Decoding strategies](04_decoding_strategies.ipynb).
#
# ### Where the dependence sits decides
#
# For many steps, two tokens are what matters: three in one small step are rare.
# Let $C(a)$ be the mutual information of a pair of tokens given the known ones,
# summed over pairs, when each other token is known with probability $a$. Then
# the T-step loss exceeds the entropy by about
# $\frac1T \int_0^1 \alpha_t'^2\, C(\alpha_t)\, dt$, and the best schedule moves
# slowly where $C$ is large: $|\alpha'| \propto 1/\sqrt{C}$
# ([proof](../book/theory_diffusion.md#the-best-schedule)).
#
# **Predict.** For which of the four joints does $C$ fall with $a$, for which
# does it rise, for which is it flat?

# %% tags=["hide-input"] mystnb={"image": {"alt": "Pair dependence against the fraction of known tokens for four joints, each relative to its mean. Cities is flat at one, shuffle rises, copies falls steeply from five to zero, the chain falls more gently."}, "figure": {"caption": "Dependence of pairs, C(a), against the fraction a of known tokens, each curve divided by its mean. Exact, by enumeration. Falling curves reward a slow start, rising ones a slow end, a flat one equal steps.", "name": "fig-dependence"}}
kept = torch.linspace(0, 1, 201, dtype=torch.float64)
C = {case: exact.pair_dependence(joint, kept) for case, joint in J.items()}
figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.2))
for (case, curve), dash in zip(
    C.items(), ["-", "--", "-.", ":"], strict=True
):
    ax.plot(kept, curve / torch.trapezoid(curve, kept), dash, label=case)
ax.set(
    xlabel="fraction a of known tokens", ylabel="C(a) / mean", ylim=(0, 5.2)
)
ax.legend()
plt.show()

# %%
grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
grid = (grid[1:] + grid[:-1]) / 2  # midpoints
print("T x (T-step loss - entropy) for large T")
print(" " * 8 + "".join(f"{name[:11]:>12}" for name in S) + "   floor")
for case, joint in J.items():
    line = f"{case:8}"
    for schedule in S.values():
        dependence = exact.pair_dependence(joint, schedule.alpha(grid))
        cost = (schedule.dalpha(grid).square() * dependence).mean().item()
        line += f"{cost:12.3f}"
    floor = torch.trapezoid(C[case].sqrt(), kept).item() ** 2
    print(line + f"{floor:8.3f}")

# %% [markdown]
# **What this shows.** The curve $C$ ranks the schedules without running a
# sampler. The *floor* is $(\int \sqrt{C})^2$, what the best possible schedule
# would pay. Linear meets it on the cities and comes close on shuffle and chain,
# where a schedule alone can gain little. On copies it pays nearly twice the floor.
#
# **A loose end.** The T-step loss bounds the divergence from above:
# $\mathrm{KL}(p \,\Vert\, p_T) \le L_T - H$. How tight is that?
#
# **Predict.** The bound falls like $1/T$ for every joint. Does the divergence
# too? Compare a joint that allows all sequences (the chain) with one that
# forbids most (shuffle).

# %%
for case in ("shuffle", "chain"):
    joint, table = J[case], J[case].table()
    print(f"{case}, linear:  T   bound      KL    KL x T   KL x T^2")
    for steps, kl in zip(STEPS, divergence[case, "linear"], strict=True):
        loss = losses.exact_t_step(joint, table.support, steps)
        bound = (table.probs * loss).sum().item() - joint.entropy()
        print(
            f"{steps:18d}{bound:8.4f}{kl:9.5f}{kl * steps:9.4f}"
            f"{kl * steps**2:9.3f}"
        )

# %% [markdown]
# **What this shows.** On shuffle a misstep leaves the allowed sequences for good,
# and the divergence falls like $1/T$. On the chain every sequence is allowed;
# the errors only tilt probabilities a little, up here and down there, and the
# divergence falls like $1/T^2$. There the bound is more than ten times too large
# at $T = 32$. A T-step loss can make a sampler look much worse than it is.
#
# ### Does the real sampler agree?
#
# So far we enumerated. Now run
# [`generate`](../book/api/decoding.md) with the published ancestral rule on
# shuffle and count valid answers.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Share of valid answers on shuffle against the number of steps. Exact curves rise from nine percent at one step toward one; measured points with error bars lie on the curves of linear and MD4 cosine, linear above cosine."}, "figure": {"caption": "Valid answers of the ancestral sampler on shuffle of 4 against the number of steps. Lines: exact, by enumeration. Points: 2,000 answers each, seed 0, with 95 % Wilson intervals. The dotted line is first-hitting sampling, exact for any number of tokens.", "name": "fig-ancestral"}}
shuffle = J["shuffle"]
sampled = shuffle.to(device)
start = torch.full((sizes.draws, 4), shuffle.mask_id, device=device)
some = STEPS[:5]
worst = 1.0
figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.2))
for name in ("linear", "cosine"):
    law, hits = [], []
    for steps in some:
        law.append(
            exact.valid_probability(
                shuffle, exact.ancestral_law(shuffle, S[name], steps)
            )
        )
        rule = strategies.ancestral(S[name], steps)
        answer = generate(
            sampled,
            start,
            rule,
            temperature=1.0,
            generator=torch.Generator().manual_seed(SEED),
        )
        valid = sampled.log_prob(answer.sequences).exp() > 0
        hits.append(int(valid.sum()))
        test = stats.binomtest(hits[-1], sizes.draws, law[-1])
        worst = min(worst, test.pvalue)
    share = [k / sizes.draws for k in hits]
    plots.exact(ax, some, law, name)
    plots.measured(
        ax, some, share, study.wilson(hits, sizes.draws), name, label=None
    )
plots.level(ax, 1, "first-hitting: always valid", above=False)
ax.set(xlabel="steps T", ylabel="valid answers", xscale="log", ylim=(0, 1.03))
ax.set_xticks(some, [str(steps) for steps in some])
ax.minorticks_off()
ax.legend(loc="lower right")
rule = strategies.first_hitting(S["linear"])
answer = generate(
    sampled,
    start,
    rule,
    temperature=1.0,
    generator=torch.Generator().manual_seed(SEED),
)
assert bool((sampled.log_prob(answer.sequences).exp() > 0).all())
print(f"smallest of {2 * len(some)} p-values (binomial test): {worst:.2f}")
print(f"first-hitting: {sizes.draws} of {sizes.draws} valid")

# %% [markdown]
# **What this shows.** The sampler follows its enumerated law. With $T \to
# \infty$ each step reveals at most one token and the error is gone; the
# *first-hitting* sampler (Zheng et al. 2024) gets there in $L$ calls, by drawing
# the times of the reveals instead of waiting for them.
#
# ## How noisy is the loss?
#
# In training, each sequence of a batch gets one time $t$ and one random mask. The
# mean is right whatever we do; the noise is not the same. Three ways to draw the
# times of a batch of $B$:
#
# - **iid**: independent;
# - **antithetic**: one random offset, then equal distances, $(u + i/B) \bmod 1$;
# - **stratified**: one time in each of $B$ equal intervals.
#
# And two ways to mask: each token by itself with probability $1 - \alpha_t$, or
# **exact count**: first the number $l$ of masks, uniform on $1 \dots L$, then a
# random set of that size, loss $\frac{L}{l} \sum$.
#
# **Predict.** Suppose every masked token cost the same $c$ nats, whatever
# else is known. What would the noise of the exact-count loss be? And what
# happens to $\frac1t \sum$ with independent masks when $t$ is tiny and one
# token is masked all the same?

# %% tags=["hide-input"] mystnb={"image": {"alt": "Mean absolute deviation of the batch loss for three ways to draw times and three losses. The exact-count loss is the least noisy in each group, and gains from antithetic and stratified draws; with independent masks and the linear schedule the way of drawing times hardly shows."}, "figure": {"caption": "Mean absolute deviation of the loss of a batch of 32 sequences of 16 tokens (nats per token), over 300 batches of fresh masks, seed 0; bars: 95 % bootstrap interval. The sequences stay the same, so all of it is noise of times and masks.", "name": "fig-noise"}}
long = joints.MarkovChain(transition, sizes.chain).to(device)
model = FunctionDenoiser(lambda x: 0.6 * long(x), long.mask_id)
g = torch.Generator().manual_seed(SEED)
batch = long.sample(sizes.batch, g)
ARMS = {
    "independent masks, linear": lambda x, times: losses.nelbo(
        model, x, S["linear"], times=times, generator=g
    ),
    "independent masks, cosine (MDLM)": lambda x, times: losses.nelbo(
        model, x, S["cosine_mdlm"], times=times, generator=g
    ),
    "exact count": lambda x, times: losses.exact_count_loss(
        model, x, times=times, generator=g
    ),
}


def deviation(values, axis=-1):
    return abs(values - values.mean(axis, keepdims=True)).mean(axis)


figure, ax = plt.subplots(figsize=(plots.WIDTH, 3.4))
noise = {}
for j, (arm, loss) in enumerate(ARMS.items()):
    for k, times in enumerate(masking.METHODS):
        runs = [loss(batch, times).mean() for _ in range(sizes.batches)]
        values = torch.stack(runs).cpu().numpy() / sizes.chain
        noise[arm, times] = deviation(values)
        low, high = study.bootstrap_interval(values, deviation, seed=SEED)
        bar = [[noise[arm, times] - low], [high - noise[arm, times]]]
        ax.errorbar(
            k + 0.16 * (j - 1),
            noise[arm, times],
            bar,
            capsize=3,
            fmt="osD"[j],
            color=f"C{j}",
            label=None if k else arm,
        )
ax.set_xticks(range(3), masking.METHODS)
ax.set(ylabel="mean absolute deviation", ylim=(0, None))
ax.legend()
plt.show()

# %%
one = batch[:1].expand(4000, -1)
print("20,000 losses of one sequence (nats), iid times")
for arm, loss in ARMS.items():
    values = torch.cat([loss(one, "iid") for _ in range(5)])
    print(f"{arm:33} mean {values.mean():.2f}  largest {values.max():6.1f}")
print("batch that iid needs, over the best (squared ratio of deviations)")
best = noise["exact count", "stratified"]
for arm in ARMS:
    ratio = (noise[arm, "iid"] / best) ** 2
    print(f"{arm:33} {ratio:.1f}")
print("deviation that stratified times leave, over iid times")
for arm in ARMS:
    print(f"{arm:33} {noise[arm, 'stratified'] / noise[arm, 'iid']:.2f}")

# %% [markdown]
# **What this shows.** With equal costs $c$ the exact-count loss would be
# $\frac{L}{l} \cdot l\,c = Lc$ always: no noise at all. Real costs differ, so some
# noise stays, but it is the least, at no cost. Sharing out the range of counts
# then helps again. With independent masks and the linear schedule it hardly
# helps on so short a text: even at a given $t$ the number of masks is random.
# With MDLM's cosine it helps about as much as with exact counts. MDLM
# stratifies $t$, MD4 uses the antithetic form, LLaDA's likelihood evaluation
# the exact count.
#
# **A finding.** Independent masks with the linear schedule have a heavy tail. A
# token masked at a tiny $t$ counts $1/t$ times, and the chance of a loss above
# $y$ falls only like $1/y^2$: the variance is infinite
# ([proof](../book/theory_diffusion.md#noise-of-one-draw)). That is why the figure
# shows absolute deviations, and one reason why published code keeps $t$ above
# $10^{-3}$. Schedules that are flat at $t = 0$, such as MDLM's cosine, do not have
# this tail, but their weight spreads the bulk. Neither does the exact count, whose
# largest weight is $L$.
#
# **What it does not show.** Noise over *which sequences* are in the batch comes on
# top, and is often larger.
#
# ## Small numbers: Gumbel draws in float32
#
# Samplers of masked diffusion often draw from $V$ tokens and the mask at once:
# add Gumbel noise $-\log(-\log u)$ to each log-probability and take the largest.
# A float32 uniform number is at most $1 - 2^{-24}$, so the noise never exceeds
# 16.64. With 1,024 steps a masked token keeps its mask with probability 0.999,
# and each of 50,257 tokens has to beat that.
#
# **Predict.** Does the cut make the sampler reveal more tokens per step,
# fewer, or just as many? Which tokens lose?
#
# Proposition 5.2 of Zheng et al. (2024) gives the law for numbers that are
# continuous up to that largest value. Real ones lie on a grid of spacing
# $2^{-24}$, which [`grid_reveal`](../book/api/exactness.md) takes into account.
# The points are simulations with the real generators, too long for this page;
# `python -m dllm_tutorial.gumbel` reruns them.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels against vocabulary size. Left: probability of a reveal relative to the intended one; curves fall below one as the vocabulary and the number of steps grow, dashed ones for a continuous cut lie below solid ones for the grid; float32 points follow the solid curves, float64 points stay at one. Right: entropy of revealed tokens, intended and with the cut, which bends down beyond a thousand tokens."}, "figure": {"caption": "Gumbel-max sampling in float32 with Zipf tokens. Left: reveal probability over the intended 1/T; dashed: Prop. 5.2, solid: grid of 24 bits, both exact; filled points float32, open points float64, 20,000 to 2,000,000 draws each, seed 0, with 95 % Wilson intervals. Right: entropy of the revealed token at T = 1024 by Prop. 5.2, exact.", "name": "fig-gumbel"}}
rows = study.read_rows("gumbel_precision")
vocabularies = [27, 128, 1000, 8000, 20000, 50257]
figure, (left, right) = plots.panels(2, height=3.3)
zipf = {V: gumbel.zipf(V) for V in vocabularies}
colors = {64: plots.BLUE, 256: plots.ORANGE, 1024: plots.RED}
cut = {
    (V, T): gumbel.unmask_law(zipf[V], 1 / T) for V in zipf for T in colors
}
real = {
    (V, T): T * gumbel.grid_reveal(zipf[V], 1 / T)
    for V in zipf
    for T in colors
}
for T, color in colors.items():
    left.plot(
        vocabularies,
        [T * cut[V, T][0] for V in zipf],
        "--",
        lw=1,
        color=color,
    )
    left.plot(
        vocabularies,
        [real[V, T] for V in zipf],
        color=color,
        label=f"T = {T}",
    )
for row in rows.itertuples():
    low, high = study.wilson(row.revealed, row.draws)
    middle = row.revealed / row.draws
    small = row.dtype == "float32"
    error = [[row.steps * (middle - low)], [row.steps * (high - middle)]]
    left.errorbar(
        row.vocab * (0.92 if small else 1.09),
        row.steps * middle,
        error,
        fmt="o",
        capsize=2,
        color=colors[row.steps],
        mfc=None if small else "white",
    )
entropy = {V: torch.special.entr(cut[V, 1024][1]).sum() for V in zipf}
wanted = {V: torch.special.entr(zipf[V]).sum() for V in zipf}
right.plot(
    vocabularies, wanted.values(), "--", color=plots.BLACK, label="intended"
)
right.plot(vocabularies, entropy.values(), color=plots.RED, label="cut")
left.set(
    xlabel="vocabulary",
    title="reveals / intended",
    xscale="log",
    ylim=(0.5, 1.25),
)
right.set(xlabel="vocabulary", title="token entropy (nats)", xscale="log")
left.legend(loc="lower left")
right.legend(loc="upper left")
plt.show()

# %%
print("T = 1024      V   Prop. 5.2    grid   entropy: cut  intended")
for V in (27, 1000, 50257):
    print(
        f"{V:15d}{1024 * cut[V, 1024][0]:12.3f}{real[V, 1024]:8.3f}"
        f"{entropy[V]:15.3f}{wanted[V]:10.3f}"
    )
big = rows[(rows.vocab == 50257) & (rows.dtype == "float32")]
hopes = {
    "intended": lambda T: 1 / T,
    "Prop. 5.2": lambda T: cut[50257, T][0],
    "grid": lambda T: real[50257, T] / T,
}
print(f"float32 reveals simulated at V = 50257: {big.revealed.sum()}")
for text, chance in hopes.items():
    mean = sum(n * chance(T) for n, T in zip(big.draws, big.steps))
    z = (big.revealed.sum() - mean) / math.sqrt(mean)
    print(f"  expected, {text:9}: {mean:6.1f}  (z = {z:+.1f})")

# %% [markdown]
# **What this shows.** In float32 rare tokens cannot win, so fewer positions are
# revealed and those get common tokens: a hidden temperature. It lowers the
# entropy, which flatters scores that like common words. At 27 characters nobody
# would notice; at 50,257 tokens and 1,024 steps about three reveals in ten are
# missing.
#
# **A finding.** The published formula overstates this a little. It treats the
# numbers as continuous up to $1 - 2^{-24}$; on the real grid the top value also
# has the probability of the gap above it, and rare tokens win more often. The
# simulation agrees with the grid; it is small, and only just tells the two apart.
# (The entropy on the right is by the formula, so it is pessimistic as well.)
#
# **What it does not show.** Zipf's law stands in for a trained model; peaked
# predictions suffer less. The samplers of this book draw in float64, by
# inverting the cumulative distribution.
#
# ## Claims of this chapter
#
# The verdicts below are computed when this page is built.

# %%
ledger.table(2)

# %% [markdown]
# ## Exercises
#
# **1. Your own schedule.** Write $\alpha_t = (1 - t)^2$ as a `Schedule`: two
# formulas. Check its weight against a numerical derivative and its NELBO against
# the others. On which of the four joints is it better than linear at $T = 4$?

# %% [markdown] tags=["hide-cell"]
# **Solution 1.** The base class supplies the weight and, by bisection, the
# inverse. The slope at $t = 1$ is zero, so this schedule starts slowly, like the
# MD4 cosine.


# %% tags=["hide-cell"]
class Quadratic(schedules.Schedule):
    def alpha(self, t):
        return (1 - t) ** 2

    def dalpha(self, t):
        return -2 * (1 - t)


mine = Quadratic()
at, h = 0.3, 1e-6
slope = (mine.alpha(at + h) - mine.alpha(at - h)).item() / (2 * h)
assert abs(-slope / mine.masked(at) - mine.weight(at)) < 1e-6
assert abs(losses.exact_nelbo(flat, x0, mine).item() - limit) < 1e-10
for case, joint in J.items():
    mine_kl, linear_kl = (
        exact.ancestral_kl(joint, schedule, [4])[0]
        for schedule in (mine, S["linear"])
    )
    print(f"{case:8} T = 4: {mine_kl:.4f} against linear {linear_kl:.4f}")

# %% [markdown]
# **2. The best schedule for copies.** For $n$ copies of one token,
# $C(a) \propto (1 - a)^{n-2}$, because a pair is dependent only while no other
# token is known. Solve $|\alpha'| \propto 1/\sqrt{C(\alpha)}$. Which schedule of
# this chapter is it for $n = 2$? Check $n = 6$ at $T = 64$ against the floor.

# %% [markdown] tags=["hide-cell"]
# **Solution 2.** With $u = 1 - \alpha$: $u^{(n-2)/2}\, u' = $ const, so
# $u^{n/2} \propto t$ and $\alpha_t = 1 - t^{2/n}$: polynomial with $w = 2/n$.
# For two tokens that is linear, as it has to be.

# %% tags=["hide-cell"]
floor = torch.trapezoid(C["copies"].sqrt(), kept).item() ** 2
table = copies.table()
for w in (1, 1 / 2, 1 / 3, 1 / 4):
    schedule = schedules.Polynomial(w)
    loss = losses.exact_t_step(copies, table.support, 64, schedule)
    cost = 64 * ((table.probs * loss).sum().item() - copies.entropy())
    print(f"w = {w:.2f}: {cost:.3f}   (floor for many steps {floor:.3f})")

# %% [markdown]
# **3. A rounding trap.** LLaDA's published likelihood evaluation spaces the mask
# counts of a batch equally, $k + j L / B$, and rounds them with `torch.round`,
# which rounds halves to the even neighbor. With $L = 10$ and $B = 4$, average
# over all starts $k$: is each count equally likely? What does this package do?

# %% [markdown] tags=["hide-cell"]
# **Solution 3.** No: with $L/B = 2.5$, half of the counts end in .5 and fall on
# even numbers. `masking.draw_counts` rounds a time in $(0, 1]$ *up*,
# $\lceil tL \rceil$, which is exactly uniform.

# %% tags=["hide-cell"]
L, B = 10, 4
k = torch.arange(1, L + 1)[:, None]
rounded = torch.round(k + torch.arange(B) * L / B).long()
counts = torch.bincount((rounded.flatten() - 1) % L + 1, minlength=L + 1)[1:]
print("torch.round:", counts.tolist())
u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
t = 1 - (u[:, None] + torch.arange(B)) / B
up = torch.bincount((t * L).ceil().long().flatten(), minlength=L + 1)[1:]
print("rounding up:", (up / 100).tolist())

# %% [markdown]
# **4. Think.** A model is trained with the linear schedule. May you sample with
# the cosine? May you compare its NELBO with that of a model trained with the
# cosine?

# %% [markdown] tags=["hide-cell"]
# **Solution 4.** Yes and yes. The denoiser does not see the time, only the masked
# text; the schedule of sampling is a free choice. The NELBO does not depend on the
# schedule, so the numbers mean the same. What differs is the *noise* of training:
# the weights decide which mask rates the optimizer hears loudest.
