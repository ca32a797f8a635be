"""The player: what it shows in a browser, for invented and for real histories."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch

from dllm_tutorial import joints
from dllm_tutorial.decoding import generate, strategies
from dllm_tutorial.player import player, players
from dllm_tutorial.schedules import Linear

MASK = 9
WORDS = ["<script>alert(1)</script>", ' "two" & ', "three\n", "'four'", " five"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def decode(token: int) -> str:
    return WORDS[token]


def history(states: list[list[int]], block: list[int]) -> SimpleNamespace:
    """A history of two rows: the given one, and one that is masked throughout."""
    x = torch.tensor(states)
    confidence = torch.full((len(states) - 1, 2, x.shape[1]), torch.nan)
    for step in range(len(states) - 1):
        confidence[step, 0, x[step] == MASK] = 0.25 * (step + 1)
    return SimpleNamespace(
        states=torch.stack([x, torch.full_like(x, MASK)], 1),
        confidence=confidence,
        block=torch.tensor([block, block]).T,
        n_blocks=torch.tensor([2, 2]),
        mask_id=MASK,
    )


# Position 0 is given. Step 1 reveals 2, step 2 masks it again and reveals 1, step 3
# reveals 2 and 3; then the row waits for the other one.
STATES = [
    [4, 9, 9, 9],
    [4, 9, 1, 9],
    [4, 0, 9, 9],
    [4, 0, 3, 2],
    [4, 0, 3, 2],
]
TOY = history(STATES, [0, 0, 1, 2])


def test_frames_hold_the_changes_and_drop_the_waiting():
    pane = player(TOY, decode).panes[0]
    assert pane["start"] == [" five", None, None, None]
    assert pane["frames"] == [
        [(2, WORDS[1], 0.25)],
        [(1, WORDS[0], 0.5), (2, None, None)],
        [(2, WORDS[3], 0.75), (3, WORDS[2], 0.75)],
    ]
    assert pane["block"] == [0, 0, 1, 1]
    assert pane["revisions"] == 1
    assert player(TOY, decode).texts == (" five" + WORDS[0] + WORDS[3] + WORDS[2],)


def test_a_row_that_never_changes_is_one_state():
    still = player(TOY, decode, row=1)
    assert still.panes[0]["frames"] == [] and still.texts == ("____",)


def test_the_html_depends_on_the_history_alone():
    one, two = player(TOY, decode), player(TOY, decode)
    assert one._repr_html_() == two._repr_html_()
    other = player(TOY, decode, title="Another")
    key = re.compile(r'data-dllm-player="(\w+)"')
    keys = {key.search(p._repr_html_()).group(1) for p in (one, other)}
    assert len(keys) == 2
    assert repr(one) == "Player('Decoding': 3 steps, 4 tokens, 1 revised)"


def test_no_token_can_end_the_script_and_nothing_is_fetched():
    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.names, self.values = [], []

        def handle_starttag(self, tag, attributes):
            self.names.append(tag)
            self.values += [value or "" for _, value in attributes]

    page = player(TOY, decode, title='<b>"x"')._repr_html_()
    tags = Tags()
    tags.feed(page)
    assert tags.names.count("script") == 1 and "b" not in tags.names[:5]
    assert '<b>"x"' in tags.values  # the accessible name, unescaped by the parser
    assert not re.search(r"https?://|//\w+\.\w|\bsrc=|@import|url\(", page)


def test_what_is_no_history_is_refused():
    with pytest.raises(ValueError, match="record=True"):
        player(SimpleNamespace(history=None), decode)
    with pytest.raises(TypeError, match="source must be a Generation or a History"):
        player([1, 2], decode)
    with pytest.raises(ValueError, match="row must lie below 2"):
        player(TOY, decode, row=2)
    with pytest.raises(ValueError, match="at least one player"):
        players([])
    with pytest.raises(TypeError, match="decode must be callable"):
        player(TOY, WORDS)
    with pytest.raises(TypeError, match="decode must return a string, got 1 of 1"):
        player(TOY, lambda token: token)
    for make in (player, lambda *given, title: players([player(*given)], title=title)):
        with pytest.raises(TypeError, match="title must be a string, got None"):
            make(TOY, decode, title=None)


@pytest.mark.parametrize(
    "rule",
    [
        strategies.confidence_top_k(2),
        strategies.remdm_cap(Linear(), steps=12, eta=0.3),
        strategies.rcr(steps=6),
    ],
    ids=lambda rule: rule.name,
)
def test_a_recorded_decoding_ends_with_its_sequence(rule):
    joint = joints.shuffle(6)
    blank = torch.full((3, 6), joint.mask_id)
    seeds = torch.arange(3)
    run = generate(joint, blank, rule, temperature=1.0, seeds=seeds, record=True)
    for row in range(3):
        (text,) = player(run, str, row=row).texts
        assert text == "".join(map(str, run.sequences[row].tolist()))


# --------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    options = {"executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu"]}
    chromium = playwright.chromium.launch(**options)
    yield chromium
    chromium.close()
    playwright.stop()


@pytest.fixture
def show(browser):
    """Open players on one page; its errors and requests fail the test."""
    opened, faults = [], []

    def open_page(*shown, width=800, head="", clock=False, **options):
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        if clock:
            page.clock.install(time=0)
            page.clock.pause_at(3_600_000)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url))
        body = "".join(one._repr_html_() for one in shown)
        page.set_content(f"<!doctype html><html {head}><body>{body}</body></html>")
        opened.append(page)
        return page

    yield open_page
    for page in opened:
        page.close()
    assert not faults


def shown_text(page) -> str:
    return page.locator(".text").first.evaluate("element => element.textContent")


@in_browser
def test_the_counter_reads_as_on_the_slides(show):
    joint = joints.copy([0] * 256)
    blank, rule = torch.full((1, 256), joint.mask_id), strategies.left_to_right(1)
    run = generate(joint, blank, rule, block_length=64, record=True)
    page = show(player(run, lambda token: "x"))
    page.locator("input").fill("31")
    assert page.locator(".count").text_content() == "Block 1/4 - Remaining: 225 tokens"
    page.locator("input").fill("255")
    assert page.locator(".count").text_content() == "Block 4/4 - Remaining: 1 token"


@in_browser
def test_buttons_step_and_revisions_are_marked(show):
    page = show(player(TOY, decode))
    forward, back = page.locator("[data-do=next]"), page.locator("[data-do=back]")
    count = page.locator(".count")
    assert back.is_disabled()
    assert shown_text(page) == " five░░░"

    forward.click()
    assert shown_text(page) == f" five░{WORDS[1]}░"
    assert page.locator(".text .fresh").count() == 1
    assert page.locator(".text span").nth(2).get_attribute("title") == (
        "revealed at step 1, confidence 0.25"
    )
    forward.click()
    assert count.text_content() == "Block 2/2 - Remaining: 2 tokens\nRevised: 1"
    assert page.locator(".text .back").count() == 1
    forward.click()
    assert forward.is_disabled() and page.locator(".text .revised").count() == 1
    assert shown_text(page) == f" five{WORDS[0]}'four'three↵\n"
    assert page.locator(".text span").nth(2).get_attribute("title") == (
        "revealed at step 3, confidence 0.75, revised once"
    )
    back.click()
    assert page.locator(".place").text_content() == "step 2/3"
    assert page.locator("script").count() == 1  # the token is text


@in_browser
def test_keys_move_when_the_player_has_the_focus(show):
    page = show(player(TOY, decode), player(TOY, decode, title="Second"))
    places = page.locator(".place")
    page.locator(".dllm-player").nth(1).focus()
    for key, step in (("End", 3), ("ArrowLeft", 2), ("Home", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        assert places.nth(1).text_content() == f"step {step}/3"
    assert places.nth(0).text_content() == "step 0/3"  # the other one stays
    page.keyboard.press(" ")
    assert page.locator("[data-do=play]").nth(1).text_content() == "Pause"


@in_browser
def test_play_pauses_and_starts_again_from_the_end(show):
    page = show(player(TOY, decode), clock=True)
    play, count = page.locator("[data-do=play]"), page.locator(".count")
    place = page.locator(".place")
    page.locator("select").select_option("4")
    play.click()
    assert play.text_content() == "Pause" and count.get_attribute("aria-live") == "off"
    page.clock.run_for(200)  # a step at once, then one every 600 / 4 ms
    assert place.text_content() == "step 2/3"
    play.click()
    page.clock.run_for(1000)
    assert play.text_content() == "Play" and place.text_content() == "step 2/3"
    play.click()
    page.clock.run_for(1000)
    assert play.text_content() == "Play" and place.text_content() == "step 3/3"
    assert count.get_attribute("aria-live") == "polite"
    play.click()
    assert place.text_content() == "step 0/3"


@in_browser
def test_order_shows_the_step_of_each_token(show):
    page = show(player(TOY, decode))
    page.locator(".dllm-player").focus()
    page.keyboard.press("End")
    order = page.locator("[data-do=order]")
    order.click()
    assert order.get_attribute("aria-pressed") == "true"
    steps = page.locator(".text span").evaluate_all(
        "all => all.map(e => e.dataset.step)"
    )
    assert [step or None for step in steps] == [None, "2", "3", "3"]
    page.locator(".text span").nth(1).click()
    assert page.locator(".detail").text_content() == (
        "Position 1: revealed at step 2, confidence 0.50"
    )


@in_browser
@pytest.mark.parametrize(("motion", "step"), [("reduce", 0), ("no-preference", 3)])
def test_autoplay_respects_reduced_motion(show, motion, step):
    shown = player(TOY, decode, autoplay=True)
    page = show(shown, clock=True, reduced_motion=motion)
    page.clock.run_for(5000)
    assert page.locator(".place").text_content() == f"step {step}/3"


@in_browser
def test_side_by_side_shares_the_controls(show):
    short = history([STATES[0], STATES[3]], [0])
    pair = players([player(TOY, decode, title="A"), player(short, decode, title="B")])
    page = show(pair)
    assert page.locator("[data-do=play]").count() == 1
    page.locator("[data-do=next]").click()
    page.locator("[data-do=next]").click()
    left = [text.split("\n")[0] for text in page.locator(".count").all_text_contents()]
    assert left == [
        "Block 2/2 - Remaining: 2 tokens",
        "Block 1/2 - Remaining: 0 tokens",
    ]
    assert page.locator(".name").all_text_contents() == ["Side by side", "A", "B"]


@in_browser
def test_the_same_player_twice_on_one_page(show):
    page = show(player(TOY, decode), player(TOY, decode))
    page.locator("[data-do=next]").nth(1).click()
    assert page.locator(".place").all_text_contents() == ["step 0/3", "step 1/3"]


CONTRAST = """span => {
  const canvas = document.createElement('canvas').getContext(
    '2d', { willReadFrequently: true });
  const paint = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); };
  const light = () => {
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const rgb = [...canvas.getImageData(0, 0, 1, 1).data].map(v => linear(v / 255));
    const [r, g, b] = rgb;
    return .2126 * r + .7152 * g + .0722 * b + .05;
  };
  paint(getComputedStyle(span.closest('.dllm-player')).backgroundColor);
  paint(getComputedStyle(span).backgroundColor);
  const ground = light();
  paint(getComputedStyle(span).color);
  const ink = light();
  return Math.max(ground, ink) / Math.min(ground, ink);
}"""


@in_browser
@pytest.mark.parametrize(
    ("head", "scheme", "dark"),
    [
        ("", "light", False),
        ("", "dark", True),
        ('data-theme="dark"', "light", True),
        ('data-theme="light"', "dark", False),
        ('theme="dark"', "light", True),
    ],
)
def test_letters_stand_out_in_both_themes(show, head, scheme, dark):
    sure = history([[9] * 4, [0, 1, 2, 3]], [0])
    sure.confidence[0, 0] = torch.tensor([0.0, 0.5, 0.9, 1.0])
    page = show(player(sure, decode), head=head, color_scheme=scheme)
    masks = page.locator(".text span").first.evaluate(CONTRAST)
    page.locator("[data-do=next]").click()
    spans = page.locator(".text span, .legend, .count, button, .name").all()
    assert min(masks, *(span.evaluate(CONTRAST) for span in spans)) >= 4.5
    ground = page.locator(".dllm-player").evaluate(
        "element => getComputedStyle(element).backgroundColor"
    )
    assert (ground == "rgb(255, 255, 255)") is not dark


@in_browser
def test_a_phone_needs_no_sideways_scrolling(show):
    wide = history([[9] * 60, [0] * 60], [0])
    pair = players([player(wide, decode, title="A"), player(wide, decode, title="B")])
    page = show(pair, width=390)
    page.locator("[data-do=next]").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
