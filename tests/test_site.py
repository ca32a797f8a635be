"""The built site: links, and every page in a real browser, wide and narrow.

The pages are those that ``make book`` has left in ``_build/html``. They are served from
this machine, and a request to any other host fails the test.
"""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

HTML = Path(__file__).resolve().parents[1] / "_build/html"
# Not the page at the root, which only leads to the first page, nor the theme's files.
PAGES = sorted(
    str(page.relative_to(HTML))
    for page in HTML.rglob("*.html")
    if page.name != "index.html" or page.parent != HTML
    if "_static" not in page.parts
)
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

# Where scripts, fonts and styles of other books come from.
REMOTE = re.compile(
    r"jsdelivr|unpkg|cdnjs|cloudflare|googleapis|gstatic|googletagmanager|jquery\.com"
)

pytestmark = pytest.mark.skipif(not PAGES, reason="the site is not built: make book")
each_page = pytest.mark.parametrize("page", PAGES)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@functools.cache
def soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / page).read_bytes(), "html.parser")


@functools.cache
def anchors(page: str) -> frozenset[str]:
    found = soup(page).find_all(True)
    return frozenset(filter(None, (t.get("id") or t.get("name") for t in found)))


# --- without a browser ---------------------------------------------------------


@each_page
def test_links_and_anchors_resolve(page):
    for tag in soup(page).find_all(["a", "img", "script", "link"]):
        target = urlsplit(tag.get("href") or tag.get("src") or "")
        if target.scheme or target.netloc:
            continue
        if target.path:
            path = ((HTML / page).parent / unquote(target.path)).resolve()
        else:
            path = HTML / page
        assert path.is_file(), f"{page} links to {target.path}, which is missing"
        if target.fragment and path.suffix == ".html":
            known = anchors(str(path.relative_to(HTML)))
            assert unquote(target.fragment) in known, f"{page}: {tag}"


@each_page
def test_nothing_is_loaded_from_elsewhere(page):
    assert not REMOTE.search((HTML / page).read_text(encoding="utf-8"))
    for tag in soup(page).find_all(["img", "script", "link", "iframe", "video"]):
        for attribute in ("src", "href"):
            assert not urlsplit(tag.get(attribute) or "").netloc, str(tag)


# --- in a browser ----------------------------------------------------------------

SIZES = {"wide": (1400, 900), "narrow": (390, 844)}
# Quiet: the browser itself asks for nothing.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """``opened(page, size, theme)`` gives a tab with the page, fully typeset.

    At the end of the test the tabs must have seen no error in the console, no failed
    request and no request that left this machine.
    """
    contexts, trouble = [], []

    def on_console(message) -> None:
        if message.type == "error":
            trouble.append(f"console: {message.text}")

    def on_request(request) -> None:
        local = ("data:", "blob:", "file:", address)
        if not request.url.startswith(local):
            trouble.append(f"request to another host: {request.url}")

    def on_response(response) -> None:
        if response.status >= 400:
            trouble.append(f"{response.status}: {response.url}")

    def open_page(page: str, size: str = "wide", theme: str = "light"):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(90_000)  # a busy machine is no failure
        contexts.append(context)
        context.on("console", on_console)
        context.on("request", on_request)
        context.on("response", on_response)
        context.on("requestfailed", lambda r: trouble.append(f"failed: {r.url}"))
        context.on("weberror", lambda e: trouble.append(f"script: {e.error}"))
        tab = context.new_page()
        tab.goto(page if "://" in page else address + page)
        tab.evaluate("window.MathJax ? MathJax.startup.promise : null")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not trouble


# Violations that stand, each with its reason.
ALLOWED = {
    "region": "the theme keeps its logo and its folds outside of landmarks",
    "aria-allowed-role": "docutils marks up a bibliography in its own way",
    "aria-deprecated-role": "docutils marks up a bibliography in its own way",
    "aria-required-children": "docutils marks up a bibliography in its own way",
    "empty-table-header": "axe-core does not see an equation that MathJax draws",
    "definition-list": "Sphinx nests the parameters of a function in a list",
}


def violations(tab) -> list[str]:
    """What axe-core finds on the page, less the allowed."""
    from axe_playwright_python.sync_playwright import Axe

    # Without preload: axe-core would ask for style sheets a second time.
    options = {"preload": False, "resultTypes": ["violations"]}
    found = Axe().run(tab, options=options)
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:160]}"
        for violation in found.response["violations"]
        if violation["id"] not in ALLOWED
        for node in violation["nodes"][:3]
    ]


@in_browser
@each_page
@pytest.mark.parametrize("size, theme", [("wide", "light"), ("narrow", "dark")])
def test_page_reads_well(opened, page, size, theme):
    """Equations are set, nothing overflows, and axe-core has no complaint.

    axe-core measures the contrast of the text, so that the dark theme is legible.
    """
    tab = opened(page, size, theme)
    tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    assert tab.locator(".math:not(:has(mjx-container))").count() == 0
    assert tab.locator("mjx-merror, [data-mjx-error]").count() == 0
    width, _ = SIZES[size]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(tab) == []


def first_with(selector: str, pages: list[str] = PAGES) -> str:
    """The first page that has such an element."""
    return next(page for page in pages if soup(page).select_one(selector))


@in_browser
@pytest.mark.parametrize("page", CHAPTERS)
@pytest.mark.parametrize("size", SIZES)
def test_everything_folded_opens(opened, page, size):
    """Hidden code, solutions and drop-downs show their inside on a click."""
    tab = opened(page, size)
    folds = tab.locator(".bd-article details")
    for index in range(folds.count()):
        fold = folds.nth(index)
        inside = fold.locator(":scope > :not(summary)").first
        assert not inside.is_visible()
        fold.locator(":scope > summary").click()
        assert inside.is_visible()


@pytest.mark.parametrize("page", CHAPTERS)
def test_every_chapter_folds_solutions(page):
    assert soup(page).select(".tag_hide-cell details, details.admonition")


@in_browser
@pytest.mark.parametrize("size", SIZES)
def test_copy_button_copies(opened, size):
    tab = opened(CHAPTERS[0], size)
    block = tab.locator("div.highlight:has(button.copybtn)").first
    code = block.locator("pre").inner_text().strip()
    block.hover()
    block.locator("button.copybtn").click()
    tab.wait_for_selector("button.copybtn.success")
    assert tab.evaluate("navigator.clipboard.readText()").strip() == code


@in_browser
@pytest.mark.parametrize("size", SIZES)
def test_theme_switch_changes_the_theme(opened, size):
    tab = opened(CHAPTERS[0], size)
    seen = set()
    for _ in range(3):
        tab.locator("button.theme-switch-button:visible").first.click()
        seen.add(tab.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}


@in_browser
@pytest.mark.parametrize("size", SIZES)
def test_search_finds_a_known_term(opened, size):
    tab = opened("search.html?q=denoiser", size)
    tab.wait_for_selector("ul.search li a")
    assert tab.locator("ul.search li", has_text="denoiser").count() > 0


@in_browser
def test_page_opens_from_the_file_system(opened):
    """Readers open a file, not a server: the mathematics is set there too."""
    page = first_with(".math")
    tab = opened((HTML / page).as_uri())
    assert tab.locator(".math:not(:has(mjx-container))").count() == 0


@in_browser
@pytest.mark.parametrize("size", SIZES)
def test_player_steps_through_its_history(opened, size):
    from playwright.sync_api import expect

    tab = opened(first_with(".dllm-player", CHAPTERS), size)
    player = tab.locator(".dllm-player").first
    place, count = player.locator(".place"), player.locator(".count").first
    if player.locator("[data-do=play]").inner_text() == "Pause":
        player.locator("[data-do=play]").click()
    player.focus()
    player.press("Home")
    steps = int(player.locator("input").get_attribute("max"))
    start = count.inner_text()
    assert place.inner_text() == f"step 0/{steps}"
    assert re.match(r"Block 1/\d+ - Remaining: \d+ token", start)
    player.locator("[data-do=next]").click()
    assert place.inner_text() == f"step 1/{steps}"
    assert count.inner_text() != start
    player.locator("[data-do=back]").click()
    assert count.inner_text() == start
    player.focus()
    player.press("End")
    assert place.inner_text() == f"step {steps}/{steps}"
    assert "Remaining: 0 tokens" in count.inner_text()
    player.locator("input").fill("1")
    assert place.inner_text() == f"step 1/{steps}"
    player.locator("[data-do=order]").click()
    assert player.locator("[data-do=order]").get_attribute("aria-pressed") == "true"
    player.locator("[data-do=play]").click()
    expect(place).not_to_have_text(f"step 1/{steps}")
