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
# # Text from noise
#
# Most language models write like a typewriter: one token after the other,
# from left to right. A *diffusion language model* (dLLM) writes like a
# photograph develops. It starts from a row of masks and turns masks into
# tokens, a few per step and in any order, until none is left.
#
# This chapter shows how that works, on a model that is small enough to train
# on one core in a quarter of an hour. Beside it stands its *autoregressive
# twin* (AR): the same network, the same data, as many updates, but reading
# and writing from left to right. What the two have in common and what they do
# not is the subject of the whole book.
#
# Definitions and proofs are on the page
# [Diffusion: definitions and proofs](../book/theory_diffusion.md). A *token*
# here is a piece of a word, three characters on average. Logarithms are
# natural unless bits are named.

# %% [markdown] tags=["colab"]
# [Open this chapter in Google Colab](https://colab.research.google.com/github/OWNER/dllm-tutorial/blob/v0.1.0/notebooks/01_text_from_noise.ipynb)

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
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch

from dllm_tutorial import (
    config,
    joints,
    ledger,
    losses,
    masking,
    plots,
    pretrained,
    schedules,
    study,
    text,
    timeline,
    training,
)
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.denoiser import FunctionDenoiser
from dllm_tutorial.networks import Transformer, TransformerConfig
from dllm_tutorial.player import player, players

torch.set_num_threads(1)
plots.style()
sizes = config.load("01_text_from_noise", PROFILE)
device = dllm_tutorial.device()  # a GPU, if there is one
linear = schedules.Linear()


def draws(seed=SEED):
    """A fresh source of random numbers."""
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## Where these models come from
#
# The first diffusion models were made for images. They add Gaussian noise to
# numbers, and a word is not a number. There are two ways out. *Continuous*
# models turn tokens into vectors and add noise there. *Discrete* models change
# the tokens themselves, most often into a mask. The slide deck that this book
# follows opens with a timeline from a survey (Li et al. 2025, arXiv
# 2508.10875). Here is one drawn from cited papers, placed by the month in
# which each first appeared.
#
# **Predict.** Which came first, discrete or continuous text diffusion?

# %% mystnb={"figure": {"caption": "Papers on diffusion language models by the month of their first version. The discrete kind came first, was outnumbered in 2022 and 2023, and took over in 2024; multimodal models followed in 2025. A choice of known papers, not a census.", "name": "fig-timeline"}, "image": {"alt": "Three vertical time lines from 2021 to 2026. Continuous models cluster in late 2022 and 2023, discrete ones in 2021 and from 2024 on, multimodal ones in 2025."}} tags=["hide-input"]
papers = timeline.papers()
timeline.draw(papers)
plt.show()

# %%
years = papers["year"].astype(int).rename("year")
print(papers.groupby([years, "kind"]).size().unstack(fill_value=0))

# %% tags=["hide-output"]
for paper in papers.itertuples():
    print(f"arXiv {paper.arxiv}  {paper.kind:<11} {paper.name}")

# %% [markdown]
# **What this shows.** Discrete diffusion on text is as old as 2021 (multinomial
# diffusion, D3PM). Most of the early *language models* were continuous all
# the same, and most of the recent ones are discrete: the deck's picture holds
# among these papers. **What it does not show.** Shares of a whole field: we
# chose the papers because they are known.
# From here on *diffusion* means masked discrete diffusion.

# %% [markdown]
# ## Forward: text becomes noise
#
# The forward process needs no model. At time $t$ each token has been replaced
# by the mask with probability $1 - \alpha_t$, independently of all others.
# With the *linear schedule* $\alpha_t = 1 - t$ the time is simply the
# expected fraction of masks: no masks at $t = 0$, nothing else at $t = 1$.
#
# The text is a State of the Union address that the model has never seen. All
# addresses of years that end in 5 are held out.

# %%
model, tokenizer = pretrained.load("dllm")
twin, _ = pretrained.load("ar")
mask_id, length = model.mask_id, model.config.length
held_out = text.windows(text.split("held-out"), tokenizer, length)
held_out = held_out.to(device)


def show(row, name=""):
    """Print tokens as text, a shaded box for each mask."""
    line = text.show(row, tokenizer, mask_id).replace("\n", " ")
    wrapped = textwrap.wrap(line, 66)
    print(f"{name:>8}  " + "\n          ".join(wrapped))


example = held_out[2907]
for t in (0.0, 0.25, 0.5, 0.75, 1.0):
    x_t = masking.forward(
        example[None], t, linear, mask_id, generator=draws()
    )
    show(x_t[0], f"t = {t:.2f}")

# %% [markdown]
# Masks do not hide where they are or how many they are: a box is one token,
# however long. At $t = 0.25$ you can read the sentence. At $t = 0.75$ you
# can guess its subject at best.

# %% [markdown]
# ## Backward: noise becomes text
#
# Going back from $t$ to $s < t$, each mask is lifted with probability
# $(\alpha_s - \alpha_t) / (1 - \alpha_t)$, again independently. Only now is a
# model needed: a *denoiser* looks at the whole row and gives, at each
# position, a distribution over tokens. A lifted mask becomes a draw from the
# distribution at its place. This is *ancestral sampling*, and one call to
# `generate`.

# %%
masks = torch.full((1, length), mask_id, device=device)
rule = strategies.ancestral(linear, steps=64)
written = generate(
    model, masks, rule, temperature=0.8, generator=draws(), record=True
)
states = written.history.states[:, 0]
for step in (0, 16, 32, 48, 64):
    last = min(step, len(states) - 1)  # it stops when no mask is left
    show(states[last], f"t = {1 - step / 64:.2f}")

# %% [markdown]
# The early tokens are drawn almost blindly, and the late ones have to fit
# them. Nothing that was revealed is ever taken back here. How much the number
# of steps matters is the subject of [chapter 2](02_schedules.ipynb), and what
# goes wrong when several masks are lifted at once that of
# [chapter 3](03_parallel_decoding.ipynb).

# %% [markdown]
# ## The loss: guess what is behind the masks
#
# Training is simpler than sampling. Draw a time $t$, mask the text, and ask the
# model for the hidden tokens. The loss is the cross-entropy on the masked
# tokens, divided by $t$ (Nie et al. 2025, equation 3):
#
# $$\mathcal L = \mathbb E_{t, x_t} \Big[ \frac1t \sum_{i\,:\,x_t^i = m}
#   -\log p_\theta(x_0^i \mid x_t) \Big].$$
#
# The weight makes up for the number of masks: at small $t$ few tokens are
# masked, and each counts for more. With it, $\mathcal L$ is at least
# $-\log p(x_0)$, the cost of the text in nats: it is the negative of an
# evidence lower bound, in short a **NELBO**.

# %%
x = held_out[::60][:16]
generator = draws()
t = masking.draw_times(len(x), generator=generator, device=device)
x_t = masking.forward(x, t, linear, mask_id, generator=generator)
with torch.no_grad():
    nll = losses.masked_nll(model, x_t, x)  # nats at the masks, one a row
    loss = nll / t
    library = losses.llada_loss(model, x, generator=draws())
torch.testing.assert_close(loss, library.double())
print(f"the loss of these {len(x)} windows, drawn once:")
print(f"{loss.mean() / length:.2f} nats per token")

# %% [markdown]
# Those five lines are all there is. They are what `losses.llada_loss` does.
#
# The loss is an average over random masks, so one draw is noisy, and noise
# slows training down. Three ways to draw have the *same* mean:
# every row its own time (iid); the times of a batch spread evenly (stratified);
# and besides, exactly $l$ masks instead of about $tL$, with weight $L / l$
# (exact count).
#
# **Predict.** How much of the noise does each improvement remove?

# %%
ways = {
    "iid times": lambda g: losses.llada_loss(
        model, x, times="iid", generator=g
    ),
    "stratified times": lambda g: losses.llada_loss(model, x, generator=g),
    "exact count": lambda g: losses.exact_count_loss(model, x, generator=g),
}
spread = {}
with torch.no_grad():
    for name, estimate in ways.items():
        batches = [estimate(draws(i)).mean() for i in range(sizes.batches)]
        values = torch.stack(batches).cpu().numpy() / length
        low, high = study.mean_interval(values)
        spread[name] = values.std(ddof=1)
        print(
            f"{name:>16}: mean {values.mean():.2f} "
            f"[{low:.2f}, {high:.2f}], spread {spread[name]:.3f}"
        )
print(
    f"nats per token; n = {sizes.batches} draws of the same {len(x)} windows"
)

# %% [markdown]
# The means agree within their 95 % intervals. Spreading the times helps; fixing
# the number of masks helps more. At small $t$ the number of
# masks in a row is a matter of chance (none, one or three), and $1/t$ magnifies
# that chance. With an exact count it is gone. This is why the networks here
# are trained with exact counts.

# %% [markdown]
# ## Does it work? A source whose truth is known
#
# On English nobody knows how low the loss can go. So first a source where
# we do: a Markov chain over three letters. Its entropy has a closed form, and
# no model can have a lower loss. A tiny network trains on it, live, as a
# dLLM and as its AR twin. On fresh sequences we take each loss minus the true
# $-\log p$ of the same sequence: the *excess*, which is zero for a perfect
# model.
#
# **Predict.** Do both reach zero? Which is faster?

# %%
transition = torch.tensor(
    [[0.80, 0.15, 0.05], [0.10, 0.10, 0.80], [0.50, 0.40, 0.10]]
)
chain = joints.MarkovChain(transition.double(), 8)
floor = chain.entropy() / 8
fresh = chain.sample(sizes.sequences, draws(1)).to(device)
truth = -chain.to(device).log_prob(fresh)


def excess(network):
    """Nats per token above the truth, with the error `train` asks for."""
    if network.config.attention == "causal":
        nats = losses.ar_loss(network, fresh)
    else:
        found = losses.nelbo_estimate(network, fresh, 8, generator=draws(2))
        nats = found.value
    above = (nats.double() - truth) / 8
    return above.mean().item(), above.std().item() / len(above) ** 0.5


def learn(attention, seed):
    """Excess along one training: [(update, excess), ...]."""
    torch.manual_seed(seed)
    network = Transformer(
        TransformerConfig(3, 8, 32, 2, 2, attention=attention),
        torch.float64,  # the same digits on every kind of processor
    )
    network.to(device)
    steps = training.train(
        network,
        chain.sample,
        training.TrainingConfig(sizes.steps, 32, 4e-3, ema=0.98, seed=seed),
        evaluate=excess,
        evaluate_every=sizes.steps // 5,
    )
    return [(r.step, r.held_out[0]) for r in steps if r.held_out]


seeds = [SEED + i for i in range(sizes.seeds)]
curves = {
    name: np.array([learn(attention, seed) for seed in seeds])
    for name, attention in [("dllm", "bidirectional"), ("ar", "causal")]
}  # [seeds, points, 2]
for name, runs in curves.items():
    low, high = study.mean_interval(runs[:, -1, 1])
    print(
        f"{plots.label(name):>15}: {runs[:, -1, 1].mean():.3f} "
        f"[{low:.3f}, {high:.3f}] above the entropy of {floor:.3f}"
    )
late = curves["dllm"][:, -1, 1], curves["ar"][:, -1, 1]
low, high = study.paired_interval(*late)
print(f"difference: {(late[0] - late[1]).mean():.3f} [{low:.3f}, {high:.3f}]")
print(
    f"nats per token; {len(seeds)} seeds, n = {sizes.sequences} sequences, "
    "95 % t intervals over seeds"
)

# %% mystnb={"figure": {"caption": "Held-out loss above the truth of two tiny networks on a Markov chain during training: exact for the AR twin, the NELBO for the dLLM. Zero is the entropy of the chain, exact. Both come down towards it; the dLLM takes longer. Means of 3 seeds, n = 400 sequences, 95 % t intervals over seeds.", "name": "fig-floor"}, "image": {"alt": "Two falling curves, the autoregressive one below the diffusion one, both ending near a dotted line at zero."}} tags=["hide-input"]
figure, ax = plt.subplots()
for name, runs in curves.items():
    step, found = runs[0, :, 0], runs[..., 1].T  # [points, seeds]
    plots.measured(ax, step, found.mean(1), study.mean_interval(found), name)
plots.level(ax, 0.0, "the truth", above=False)
ax.set(xlabel="updates", ylabel="excess, nats per token")
ax.set_ylim(-0.02, None)
ax.legend()
plt.show()

# %% [markdown]
# **What this shows.** Do both reach zero? The AR twin does, as far as its
# interval can tell; the interval of the dLLM stays above zero, and so does
# that of the difference. The dLLM is slower: it has to learn every token from
# *every* set of its neighbors, not from the tokens on its left alone. The
# loss itself is honest. It comes down towards the entropy and not below, and
# for the *true* conditionals the NELBO is no mere bound but equal to
# $-\log p$, in any order ([theory](../book/theory_diffusion.md)). **What it does not show.**
# That the gap closes on English, where the best model is out of reach.

# %% [markdown]
# ## Watch it write
#
# Now the models trained on real text. The player shows a row of 64 masks
# filled in four blocks, one token per step. Inside a block the order is free:
# this rule fills first where the model is surest. Beside it the AR twin, for
# which every step is the next token. Start it, or step with the arrow keys.

# %%
seeds = torch.tensor([SEED + 1])
dllm_text = generate(
    model,
    masks,
    strategies.confidence_top_k(1),
    temperature=0.7,
    block_length=16,
    seeds=seeds,
    record=True,
)
ar_text = generate(
    twin,
    masks,
    strategies.left_to_right(1),
    temperature=0.7,
    seeds=seeds,
    record=True,
)


def piece(token):
    return tokenizer.decode([token])


players(
    [
        player(dllm_text, piece, title="Diffusion, blocks of 16"),
        player(ar_text, piece, title="Autoregressive twin"),
    ],
    title="Two ways to write 64 tokens",
)

# %% [markdown]
# The counter is the one of the deck's first slide ("Block 1/4 - Remaining: 225
# tokens"), whose numbers fit a text of 256 tokens. Writing block by block is
# *semi-autoregressive*: blocks from left to right, any order inside.
#
# Both write words and phrases of the genre and neither writes sense. These
# are networks of under a million parameters after a quarter of an hour of training:
# the point is the process. How well they model the text is measured below, not judged
# from samples. At temperature 0.7 both avoid their less likely tokens.

# %% [markdown]
# ## Fill a gap
#
# A dLLM does not care which tokens are masked. Give it a beginning and an
# end, and it writes the middle. The twin sees only what is on the left.

# %%
gap = slice(24, 40)
question = example[None].clone()
question[:, gap] = mask_id
show(question[0], "given")
show(example, "truth")
for name, network, rule in [
    ("dLLM", model, strategies.confidence_top_k(1)),
    ("AR", twin, strategies.left_to_right(1)),
]:
    filled = generate(network, question, rule).sequences
    show(filled[0], name)

# %% [markdown]
# What is the right side worth? Score the 16 true tokens of the gap: once with
# 24 tokens on each side, once with the left side alone.
#
# **Predict.** Rank three numbers: the dLLM with both sides, the dLLM with the
# left side, the AR twin with the left side.

# %%
rows = held_out[:: len(held_out) // sizes.windows][: sizes.windows]
hidden = torch.zeros(length, dtype=torch.bool, device=device)
hidden[gap] = True
left = slice(0, gap.stop)
both_sides = losses.nelbo_estimate(
    model, rows, 16, maskable=hidden, generator=draws()
).value
left_side = losses.nelbo_estimate(
    model, rows[:, left], 16, maskable=hidden[left], generator=draws()
).value
with torch.no_grad():
    twin_left = losses.token_nll(twin, rows, rows)[:, gap].sum(-1)
scores = {
    "dLLM, both sides": both_sides,
    "dLLM, left side": left_side,
    "AR, left side": twin_left,
}
for name, nats in scores.items():
    per_token = nats.double().cpu().numpy() / 16
    low, high = study.mean_interval(per_token)
    print(f"{name:>16}: {per_token.mean():.2f} [{low:.2f}, {high:.2f}]")
saved = (left_side - both_sides).double().cpu().numpy() / 16
low, high = study.mean_interval(saved)
print(f"right side worth: {saved.mean():.2f} [{low:.2f}, {high:.2f}]")
print(f"nats per token; n = {len(rows)} gaps, 95 % t intervals")

# %% [markdown]
# The right side helps the dLLM, and the twin cannot use it at all: it would
# have to be trained for the task. But the help is small so far, and from the
# left side alone the twin is better by more than that. A freedom is worth only
# what the model has learned to do with it. The next section says how much
# these two have learned.

# %% [markdown]
# ## How good are they? Bits per character
#
# The networks above were trained beforehand, on one processor core each; their
# weights and these numbers ship with the package, and
# `python -m dllm_tutorial.train_text --out runs/text` makes them again. The score is the number
# of bits that the model needs per character of the held-out speeches, in
# windows of 64 tokens. For the AR twin it is exact. For the dLLM it is the
# NELBO, an upper bound, drawn with exact mask counts.
#
# The mark to beat is counting: *n-grams* predict a character from the
# $n - 1$ before it (Witten-Bell smoothing), and the same over tokens.
#
# **Predict.** Which of the two networks beats the n-grams?

# %%
scores = study.read_rows("text_held_out")
runs = study.read_rows("text_curves")
gaps = study.read_rows("text_gap")


long_runs = scores[scores["budget"] == "long"].set_index("model")
best = scores[scores["budget"] == "counts"].sort_values("bits_per_character")


def score_of(kind, unit):
    rows = scores[(scores["model"] == kind) & (scores["unit"] == unit)]
    return rows["bits_per_character"].item()


for name in ("dllm", "ar"):
    rows = long_runs.loc[name]
    bits = rows["bits_per_character"].to_numpy()
    low, high = study.mean_interval(bits)
    print(
        f"{plots.label(name):>15}: {bits.mean():.3f} [{low:.3f}, {high:.3f}] "
        f"({rows['bound'].iloc[0]})"
    )
for unit in ("bpe", "char"):
    row = best[best["unit"] == unit].iloc[0]
    print(
        f"{unit + ' ' + row['model']:>15}: {row['bits_per_character']:.3f} "
        f"+- {1.96 * row['standard_error']:.3f}"
    )
print(
    f"bits per character; n = {row['windows']} windows, "
    f"{row['characters']} characters;\nnetworks: {len(bits)} seeds, 95 % t "
    "intervals over seeds; n-grams: over windows"
)

# %% mystnb={"figure": {"caption": "Held-out bits per character during training of the two networks, with n-grams over characters (3 to 6) as levels. The AR twin is below the 5-gram by its second point; the dLLM falls more slowly and passes the 4-gram but not the 5-gram. Means of 3 seeds on one thirty-second of the held-out windows, 95 % t intervals over seeds.", "name": "fig-learning"}, "image": {"alt": "Bits per character against millions of tokens seen. The autoregressive curve drops fast and flattens low; the diffusion curve starts higher and falls more slowly. Dotted levels mark n-grams."}} tags=["hide-input"]
figure, ax = plt.subplots(figsize=(plots.WIDTH, 4.0))
for name in ("dllm", "ar"):
    table = runs[runs["model"] == name].pivot(
        index="tokens_seen",
        columns="seed",
        values="held_out_bits_per_character",
    )
    bits = table.to_numpy()  # [points, seeds]
    interval = study.mean_interval(bits)
    plots.measured(ax, table.index / 1e6, bits.mean(1), interval, name)
for n in (3, 4, 5, 6):
    level = score_of(f"{n}-gram", "char")
    plots.level(ax, level, f"{n}-gram", above=n < 6)
ax.set(xlabel="tokens seen, millions", ylabel="bits per character")
ax.set_xlim(0, None)
ax.legend()
plt.show()

# %% mystnb={"figure": {"caption": "Held-out bits per character of n-grams of order 1 to 7 over characters and 1 to 4 over tokens, and of the two networks (levels). n-grams and AR exact, dLLM an upper bound, means of 3 seeds. Intervals, over windows for the n-grams, are smaller than the markers.", "name": "fig-ngrams"}, "image": {"alt": "Two falling curves of n-gram scores against the order, over characters and over tokens, with one dotted level for each network."}} tags=["hide-input"]
figure, ax = plt.subplots()
for unit, mark, name in [("char", "x", "characters"), ("bpe", "+", "tokens")]:
    rows = best[best["unit"] == unit].sort_values("model")
    n = rows["model"].str[0].astype(int)
    mean, half = rows["bits_per_character"], 1.96 * rows["standard_error"]
    plots.measured(
        ax,
        n,
        mean,
        (mean - half, mean + half),
        "ngram",
        marker=mark,
        label=f"n-gram over {name}",
        color=plots.BLACK if unit == "bpe" else plots.GRAY,
    )
for name in ("dllm", "ar"):
    level = long_runs.loc[name, "bits_per_character"].mean()
    plots.level(ax, level, plots.label(name))
ax.set(xlabel="order n", ylabel="bits per character", xticks=range(1, 8))
ax.legend()
plt.show()

# %% [markdown]
# How much of the gap could be luck? The difference dLLM minus AR on the same
# windows, for each seed.

# %%
values = gaps["gap_bits_per_character"].to_numpy()
low, high = study.mean_interval(values)
listed = ", ".join(f"{value:.3f}" for value in values)
print(f"gap in bits per character, seeds 0, 1, 2: {listed}")
print(f"mean {values.mean():.3f} [{low:.3f}, {high:.3f}], 95 % t interval")

# %% [markdown]
# **What this shows.** At an equal and very small budget the AR twin is far
# ahead: it beats every n-gram, the dLLM only the short ones. The gap is many
# times what a seed changes. The dLLM learns a harder thing, and its score is a
# bound that charges it for being asked in every order. Both curves flatten at
# the end; the learning rate goes to zero there, so they do not tell where a
# longer training would arrive.
#
# **What it does not show.** That dLLMs are worse at scale. Published gaps after
# far longer training are smaller: on text8 MD4 reaches 1.37 bits per character
# where AR has 1.23 (Shi et al. 2024, table 2). Ours had a quarter of an hour on
# one core. The windows also stop at 64 tokens, and the held-out speeches are
# not all new: Roosevelt used some passages of 1905 again in 1907, which may
# help every model here.

# %% [markdown]
# ## What the deck claims, and what is tested where
#
# The opening slides say that dLLMs are weird, fun, scale well enough, do
# better than AR models in some tasks, and are fast.
#
# | claim | in this chapter | elsewhere |
# |---|---|---|
# | weird, fun | you have seen one write | a matter of taste |
# | they write block by block | yes, with the deck's counter | chapter 4 |
# | discrete has overtaken continuous | yes, among cited papers | |
# | they seem to scale | not tested: one size, one budget | open |
# | better in some tasks | not seen: the dLLM can use the right side of a gap, the twin predicts it better without | chapter 6: reversal partly, Sudoku open |
# | fast | not tested: one token per step here | chapters 3, 4 and 6 |
#
# The [ledger](../book/ledger.md) keeps the verdicts. These are the ones that
# this chapter settles.

# %%
ledger.table(1)

# %% [markdown]
# ## Exercises
#
# **1. One step.** Let the model fill all 64 masks in a single step, at
# temperature 1. From which law does each token come? Why does the text read
# as it does?
#
# **2. The twin, out of order.** The AR twin is a denoiser too. Let `generate`
# run it with `strategies.right_to_left(1)`, and see that it refuses. A
# `FunctionDenoiser` does not say what it reads: make one of the twin and try
# again. What does each draw condition on?
#
# **3. The weight.** Leave out the factor $1/t$ of the loss. The number of
# masks is then what it is. Which bound, if any, do you get? Which mask rates
# does the model learn best?
#
# **4. A model that knows nothing.** What is the NELBO per token of a denoiser
# that always answers with the uniform distribution over $V$ tokens? And of one
# that answers with the frequencies of single tokens?

# %% [markdown] tags=["hide-cell"]
# **Solution 1.** With every position masked the model sees no token at all, so
# each position is drawn from what it predicts for an empty page: nearly the
# frequencies of single tokens. No token knows of any other.

# %% tags=["hide-cell"]
at_once = generate(
    model,
    masks,
    strategies.random_top_k(length),
    temperature=1.0,
    generator=draws(),
)
show(at_once.sequences[0])

# %% [markdown] tags=["hide-cell"]
# **Solution 2.** The twin's prediction at position $i$ reads the tokens before
# $i$. From right to left these are all masks, a context that it never met in
# training: every draw is made without knowledge of any other, and the masks
# it reads mean nothing to it. The probabilities are those of no joint that was
# learned, and so `generate` refuses a network that says that it reads from
# the left.

# %% tags=["hide-cell"]
for denoiser in (twin, FunctionDenoiser(twin, mask_id)):
    try:
        backwards = generate(
            denoiser,
            masks,
            strategies.right_to_left(1),
            temperature=0.7,
            generator=draws(),
        )
    except ValueError as error:
        print("refused:", error)
show(backwards.sequences[0])

# %% [markdown] tags=["hide-cell"]
# **Solution 3.** Without the weight, rows with many masks count more, because
# each mask adds a term. The expectation is $\int_0^1 t \,(\dots)\,dt$ instead of
# the NELBO: it is smaller than the NELBO, since every term is multiplied by
# $t \le 1$, and no bound on $-\log p$. The gradient favors high mask rates,
# that is the start of sampling, over the fine work at its end.

# %% [markdown] tags=["hide-cell"]
# **Solution 4.** Every masked token costs $\ln V$; the weights make each token
# count once on average, so the NELBO is $\ln V$ per token. With frequencies
# $f$ it is the cross-entropy $-\sum_v p(v) \ln f(v)$. Below both are in bits
# per character, the unit of the figures above.

# %% tags=["hide-cell"]
unigram = score_of("1-gram", "bpe")
tokens = best["windows"].iloc[0] * length
uniform = np.log2(mask_id) * tokens / best["characters"].iloc[0]
print(f"uniform over {mask_id} tokens: {uniform:.2f} bits per character")
print(f"single-token frequencies: {unigram:.2f} bits per character")
