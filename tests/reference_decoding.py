"""Slow references for the decoding rules, written from the papers' formulas.

Loops over rows, positions and tokens in plain Python floats; nothing is shared with
the package. A rule is a function of a ``View`` of one row and returns the possible
outcomes of one step as ``(probability, state, memory)``. ``greedy`` follows a rule
that leaves no choice open at temperature 0; ``law`` enumerates every proposal and
every random choice and returns the exact law of the answer.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import torch


@dataclass(frozen=True)
class View:
    """What a rule may look at in one step of one row."""

    state: tuple
    masked: tuple  # masked positions of the current block
    block: tuple  # all answer positions of the current block
    start: int  # first position of the block
    width: int  # its positions, given tokens included
    probs: list  # probs[i][v], the untempered prediction
    token: dict  # the proposal of each position
    n_blocks: int
    block_index: int
    step: int
    mask: int
    memory: object

    def confidence(self, i):
        return self.probs[i][self.token[i]]

    def reveal(self, positions):
        state = list(self.state)
        for i in positions:
            state[i] = self.token[i]
        return tuple(state)


def softmax(logits, temperature=1.0):
    top = max(logits)
    weights = [math.exp((x - top) / temperature) for x in logits]
    return [w / sum(weights) for w in weights]


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def margin(p):
    first, second = sorted(p, reverse=True)[:2]
    return first - second


def argmax(values):
    """First largest: ties go to the lowest index."""
    return max(range(len(values)), key=lambda i: (values[i], -i))


def by_rank(view, rank):
    """Masked positions of the block, best first, ties to the left."""
    return sorted(view.masked, key=lambda i: (-rank(view, i), i))


def logits_of(denoiser, state):
    return denoiser(torch.tensor([state]))[0].double().tolist()


def views(denoiser, prompt, rule, state, memory, step, block_length, temperature):
    """Yield (probability, View) for every joint proposal at one state.

    A rule marked ``everywhere`` draws fresh tokens at revealed positions too.
    """
    mask = denoiser.mask_id
    given = [i for i, v in enumerate(prompt) if v != mask]
    answer = [i for i in range(len(prompt)) if i not in given]
    first, length = answer[0], len(prompt)
    size = block_length or length - first
    left = [i for i in answer if state[i] == mask]
    index = ((left[0] if left else answer[-1]) - first) // size
    inside = range(first + index * size, min(first + (index + 1) * size, length))
    block = tuple(i for i in answer if i in inside)
    masked = tuple(i for i in block if state[i] == mask)
    logits = logits_of(denoiser, state)
    probs = [softmax(row) for row in logits]
    tiles = sorted({(i - first) // size for i in answer})  # those with work to do
    common = (len(tiles), tiles.index(index), step, mask, memory)
    where = (block, inside.start, len(inside))
    if temperature == 0:
        token = {i: argmax(probs[i]) for i in range(length)}
        yield 1.0, View(state, masked, *where, probs, token, *common)
        return
    places = block if getattr(rule, "everywhere", False) else masked
    drawn = [softmax(logits[i], temperature) for i in places]
    for choice in itertools.product(*[range(len(p)) for p in drawn]):
        p = math.prod(d[v] for d, v in zip(drawn, choice, strict=True))
        if p > 0:
            token = dict(zip(places, choice, strict=True))
            yield p, View(state, masked, *where, probs, token, *common)


def greedy(denoiser, prompt, rule, *, block_length=None):
    """States of one row at temperature 0, the prompt first, until it is full."""
    state, memory, states = tuple(prompt), None, [tuple(prompt)]
    while denoiser.mask_id in state:
        at = (denoiser, prompt, rule, state, memory, len(states) - 1, block_length, 0)
        ((_, view),) = views(*at)
        ((_, state, memory),) = rule(view)
        states.append(state)
    return states


def law(denoiser, prompt, rule, *, temperature=1.0, block_length=None, steps=None):
    """Exact law of the answer: {sequence: probability}.

    ``steps``: of a rule that runs on a clock and may mask a full row again.
    """
    now, done = {(tuple(prompt), None): 1.0}, defaultdict(float)
    for step in range(steps or 10 * len(prompt)):
        after = defaultdict(float)
        for (state, memory), weight in now.items():
            at = (denoiser, prompt, rule, state, memory, step, block_length)
            for p, view in views(*at, temperature):
                for q, new, kept in rule(view):
                    if steps is None and denoiser.mask_id not in new:
                        done[new] += weight * p * q
                    elif p * q > 0:
                        after[new, kept] += weight * p * q
        now = after
    for (state, _), weight in now.items():
        done[state] += weight
    return dict(done)


# --- ranks ---------------------------------------------------------------------------


def left(view, i):
    return -i


def right(view, i):
    return i


def confident(view, i):
    return view.confidence(i)


def margins(view, i):
    return margin(view.probs[i])


def negentropy(view, i):
    return -entropy(view.probs[i])


# --- rules that only reveal ----------------------------------------------------------


def top_k(rank, k):
    """The k best masked positions."""

    def rule(view):
        return [(1.0, view.reveal(by_rank(view, rank)[:k]), None)]

    return rule


def top_k_steps(rank, steps):
    """``steps`` in all; each block gets an equal share, the remainder comes first."""

    def rule(view):
        index, done, start = view.memory or (view.block_index, 0, len(view.masked))
        if index != view.block_index:
            index, done, start = view.block_index, 0, len(view.masked)
        share = steps // view.n_blocks
        quota = start // share + (done < start % share)
        new = view.reveal(by_rank(view, rank)[:quota])
        return [(1.0, new, (index, done + 1, start))]

    return rule


def random_k(k):
    """k uniform masked positions."""

    def rule(view):
        sets = list(itertools.combinations(view.masked, min(k, len(view.masked))))
        return [(1 / len(sets), view.reveal(s), None) for s in sets]

    return rule


def threshold(gamma):
    """Fast-dLLM (Wu et al. 2025): all with confidence >= gamma, and the best one."""

    def rule(view):
        best = by_rank(view, confident)[0]
        sure = [i for i in view.masked if view.confidence(i) >= gamma]
        return [(1.0, view.reveal({best, *sure}), None)]

    return rule


def factor(f):
    """Fast-dLLM, factor form: the largest m with (m + 1)(1 - c_(m)) < f."""

    def rule(view):
        order = by_rank(view, confident)
        fits = [
            m
            for m in range(1, len(order) + 1)
            if (m + 1) * (1 - view.confidence(order[m - 1])) < f
        ]
        return [(1.0, view.reveal(order[: max(fits, default=1)]), None)]

    return rule


def entropy_bounded(gamma, rank=negentropy):
    """EB-Sampler (Ben-Hamu et al. 2025): longest prefix, sum H - max H <= gamma."""

    def rule(view):
        order = by_rank(view, rank)
        kept = 1
        for m in range(1, len(order) + 1):
            h = [entropy(view.probs[i]) for i in order[:m]]
            if math.fsum(h) - max(h) > gamma:
                break
            kept = m
        return [(1.0, view.reveal(order[:kept]), None)]

    return rule


def klass(k=1, confidence=0.9, kl=0.01, history=2):
    """KLASS (Kim et al. 2025): confident and stable over the last two step KLs."""

    def divergence(p, q):
        if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
            return math.inf
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    def rule(view):
        index, done, past = view.memory or (view.block_index, 0, ())
        done = done if index == view.block_index else 0
        shots = (*past, tuple(map(tuple, view.probs)))[-(history + 1) :]
        ready = []
        if len(shots) == history + 1 and done >= history - 1:
            for i in view.masked:
                steps = zip(shots[1:], shots[:-1], strict=True)
                stable = all(divergence(p[i], q[i]) < kl for p, q in steps)
                if stable and view.confidence(i) > confidence:
                    ready.append(i)
        chosen = ready or by_rank(view, confident)[:k]
        memory = (view.block_index, done + 1, shots)
        return [(1.0, view.reveal(chosen), memory)]

    return rule


def dilated(base=2):
    """DUS (Luxembourg et al. 2025): the multiples of W / 2, then of W / 4, ... of 1."""

    def rule(view):
        t = 1
        while True:
            stride = max(1, view.width // base**t)
            level = [i for i in view.masked if (i - view.start) % stride == 0]
            if level:
                return [(1.0, view.reveal(level), None)]
            t += 1

    return rule


def ancestral(alpha, steps):
    """Each masked position by itself with (alpha_s - alpha_t) / (1 - alpha_t)."""

    def rule(view):
        t, s = 1 - view.step / steps, 1 - (view.step + 1) / steps
        p = 1.0 if s <= 0 else (alpha(s) - alpha(t)) / (1 - alpha(t))
        return [(q, view.reveal(s), None) for q, s in subsets(view.masked, p)]

    return rule


def subsets(positions, p):
    """Every subset with its probability when each joins by itself with chance p."""
    chance = p if callable(p) else lambda i: p
    for flags in itertools.product((False, True), repeat=len(positions)):
        pairs = list(zip(positions, flags, strict=True))
        q = math.prod(chance(i) if yes else 1 - chance(i) for i, yes in pairs)
        yield q, [i for i, yes in pairs if yes]


# --- rules that revise ---------------------------------------------------------------


def remdm(alpha, steps, sigma):
    """ReMDM (Wang et al. 2025), equation for the posterior with remasking sigma.

    ``sigma(alpha_t, alpha_s)`` is the chance that a revealed token is masked again.
    """

    def rule(view):
        t, s = 1 - view.step / steps, max(0.0, 1 - (view.step + 1) / steps)
        a_t, a_s = alpha(t), alpha(s)
        again = sigma(a_t, a_s)
        show = (a_s - (1 - again) * a_t) / (1 - a_t)
        shown = [i for i in view.block if i not in view.masked]
        out = []
        for p, up in subsets(view.masked, show):
            for q, down in subsets(shown, again):
                new = list(view.reveal(up))
                for i in down:
                    new[i] = view.mask
                out.append((p * q, tuple(new), None))
        return out

    return rule


def sigma_max(a_t, a_s):
    return min(1.0, (1 - a_s) / a_t) if a_t > 0 else 1.0


def remdm_conf(alpha, steps):
    """ReMDM-conf: sigma_i is sigma_max times softmax of minus the old confidence."""

    def rule(view):
        shown = dict(view.memory or ())
        t, s = 1 - view.step / steps, max(0.0, 1 - (view.step + 1) / steps)
        a_t, a_s = alpha(t), alpha(s)
        weight = {i: math.exp(-c) for i, c in shown.items()}
        total = sum(weight.values())

        def again(i):
            return sigma_max(a_t, a_s) * weight[i] / total

        out = []
        for p, up in subsets(view.masked, (a_s - a_t) / (1 - a_t)):
            for q, down in subsets(tuple(shown), again):
                new = list(view.reveal(up))
                kept = {**shown, **{i: view.confidence(i) for i in up}}
                for i in down:
                    new[i] = view.mask
                    del kept[i]
                out.append((p * q, tuple(new), tuple(sorted(kept.items()))))
        return out

    return rule


def sigma_loop(eta, t_on, t_off, alpha_on):
    """ReMDM-loop: the schedule with a plateau, and sigma = eta on the plateau."""

    def alpha(t):
        if t > t_on:
            return alpha_on * (1 - t) / (1 - t_on)
        return alpha_on if t > t_off else 1 - (1 - alpha_on) * t / t_off

    def sigma(a_t, a_s):
        on = abs(a_t - alpha_on) < 1e-12
        return min(eta, sigma_max(a_t, a_s)) if on else 0.0

    return alpha, sigma


def p2(steps, eta):
    """P2 (Peng et al. 2025): keep the best kappa N of fresh log-probabilities."""

    def rule(view):
        hidden = len(view.block) * (steps - 1 - view.step) // steps
        scores = {}
        for i in view.block:
            log_p = math.log(view.confidence(i))
            scores[i] = log_p if i in view.masked else eta * log_p
        # of equal scores the masked ones go first, a revealed token only after them
        worst = sorted(view.block, key=lambda i: (scores[i], i not in view.masked, -i))
        new = list(view.reveal(view.masked))
        for i in worst[:hidden]:
            new[i] = view.mask
        return [(1.0, tuple(new), None)]

    rule.everywhere = True
    return rule


def rcr(steps):
    """RCR (He et al. 2025): fill all, mask the lowest running confidences again."""

    def rule(view):
        running = dict(view.memory or ())
        running.update({i: view.confidence(i) for i in view.masked})
        size = len(view.block)
        hidden = sum(quotas(size, steps=steps)[view.step + 1 :])
        worst = sorted(view.block, key=lambda i: (running[i], -i))[:hidden]
        new = list(view.reveal(view.masked))
        for i in worst:
            new[i] = view.mask
            del running[i]
        return [(1.0, tuple(new), tuple(sorted(running.items())))]

    return rule


def wino(denoiser, draft=0.6, verify=0.9, most=20):
    """WINO (Hong et al. 2025): wide draft, then revoke what the others contradict."""

    def rule(view):
        index, before = view.memory or (None, 1)
        before = before if index == view.block_index else 1
        limit = min(max(int(0.7 * len(view.masked)), 5), most)
        order = by_rank(view, confident)
        wide = [i for i in order if view.confidence(i) > draft][:limit]
        chosen = wide or order[:1]
        doubt = {}
        for i in view.block:
            if i not in view.masked:
                others = list(view.state)
                others[i] = view.mask
                p = softmax(logits_of(denoiser, others)[i])[view.state[i]]
                if p < verify:
                    doubt[i] = p
        allowed = before - 1 if len(chosen) > 1 else 0
        worst = sorted(doubt, key=lambda i: (doubt[i], i))[:allowed]
        new = list(view.reveal(chosen))
        for i in worst:
            new[i] = view.mask
        return [(1.0, tuple(new), (view.block_index, len(chosen)))]

    return rule


# --- closed forms (Fractions) --------------------------------------------------------


def quotas(length, k=None, steps=None):
    """Tokens a step: k at a time, or ``steps`` steps with the remainder first."""
    if k is not None:
        return [min(k, length - done) for done in range(0, length, k)]
    return [length // steps + (j < length % steps) for j in range(steps)]


def shuffle_accuracy(sizes):
    """Temperature 1: a step of k among m free items is valid w.p. P(m, k) / m^k."""
    m, p = sum(sizes), Fraction(1)
    for k in sizes:
        p *= Fraction(math.perm(m, k), m**k)
        m -= k
    return p


def replace_accuracy(sizes):
    """Temperature 1, value-blind: S(r) after which exactly one item is replaced.

    With r positions open and nothing replaced yet each open one is replaced with
    chance 1/r. One hit: the rest is certain. None: r - k are left. Two: wrong.
    """
    r, alive, valid = sum(sizes), Fraction(1), Fraction(0)
    for k in sizes:
        hit = Fraction(1, r)
        valid += alive * k * hit * (1 - hit) ** (k - 1)
        alive *= (1 - hit) ** k
        r -= k
    return valid
