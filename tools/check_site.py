"""Checks a built documentation site in a browser: every page, on a desktop and on a phone, the search, and both colour schemes.

    mkdocs build --strict --site-dir site
    python tools/check_site.py site --screenshots screenshots

It needs `pip install "tl-unet[site]"` and Chromium: the system's, or the one of `playwright install chromium`. What is wrong is
listed, page by page, and the exit status is 1. The site must be self-contained: every request to another host is a fault.
"""

import argparse
import contextlib
import functools
import html.parser
import http.server
import pathlib
import re
import shutil
import sys
import threading
import urllib.parse

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SEARCH, FOUND = "build_unet", "api/models/"  # what a reader types, and the page that must be found
NOT_FOUND = "404.html"  # is served under any address, so its links are absolute
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

IMAGES_WITHOUT_TEXT = """() => [...document.images]
    .filter(image => !(image.getAttribute('alt') || '').trim())
    .map(image => image.getAttribute('src'))"""
BROKEN_IMAGES = """async () => {
    for (const image of document.images) { image.loading = 'eager'; await image.decode().catch(() => null) }
    return [...document.images].filter(image => !image.naturalWidth).map(image => image.getAttribute('src'))
}"""
LINKS = "() => [...document.querySelectorAll('a[href]')].map(link => link.href)"
# What juts out of the window, unless something around it scrolls: its innermost elements.
TOO_WIDE = """() => {
    const scrolls = element => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX)
    const inside = element => {
        for (let outer = element; outer && outer !== document.body; outer = outer.parentElement)
            if (scrolls(outer)) return true
        return false
    }
    const wide = [...document.querySelectorAll('.md-content *, .md-footer *')]
        .filter(element => element.getBoundingClientRect().right > innerWidth + 1 && !inside(element))
    const found = wide.filter(element => !wide.some(other => other !== element && element.contains(other)))
        .map(element => `<${element.localName}> ${element.textContent.trim().slice(0, 60)}`)
    const page = document.documentElement
    if (page.scrollWidth > page.clientWidth) found.push(`the page scrolls to ${page.scrollWidth} px`)
    return found
}"""
SCHEME = "() => document.body.getAttribute('data-md-color-scheme')"
TOGGLE = "form[data-md-component=palette] label:not([hidden])"


class Anchors(html.parser.HTMLParser):
    """Collects the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.names = {"", "__top"}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Called for each tag."""
        self.names |= {value for key, value in attrs if key == "id" or (tag, key) == ("a", "name")}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *args):
        """Says nothing."""


@contextlib.contextmanager
def served(site):
    """Serves a directory on a free port of this machine; gives its address."""
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def addresses(site):
    """The pages of a site, relative to it: those of the navigation and those that only links lead to."""
    pages = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html"))
    return [re.sub(r"(^|/)index\.html$", r"\1", page) for page in pages if page != NOT_FOUND]


class Check:
    """One run over a site: what is asked of it, and what was found wrong."""

    def __init__(self, site, base, browser, screenshots):
        self.site, self.base, self.browser, self.screenshots = site, base, browser, screenshots
        self.problems = []
        self.where = ""
        self.anchors = functools.cache(self._anchors)

    def report(self, problem):
        """Notes a problem of the page that is open, once."""
        entry = f"/{self.where}: {problem}"
        if entry not in self.problems:
            self.problems.append(entry)

    @contextlib.contextmanager
    def window(self, viewport, scheme):
        """An empty window whose errors and requests are watched."""
        context = self.browser.new_context(
            viewport=viewport, color_scheme=scheme, service_workers="block"
        )
        context.route("**/*", self._route)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.report(f"script error: {error}"))
        page.on("response", self._response)
        page.on("requestfailed", self._failed)
        try:
            yield page
        finally:
            context.close()

    def _route(self, route):
        url = route.request.url
        if url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.report(f"request to another host: {url}")
            route.abort()

    def _console(self, message):
        # Requests are reported by themselves, with their address.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.report(f"console error: {message.text}")

    def _response(self, response):
        if response.status >= 400:
            self.report(f"status {response.status}: {response.url}")

    def _failed(self, request):
        # Aborted is what is still loading when the page is left.
        if request.url.startswith(self.base) and request.failure != "net::ERR_ABORTED":
            self.report(f"failed request: {request.url} ({request.failure})")

    def open(self, page, address):
        """Opens a page and waits for it."""
        self.where = address
        page.goto(self.base + address, wait_until="networkidle")

    def picture(self, page, name):
        """Keeps a screenshot, where they are wanted."""
        if self.screenshots:
            page.screenshot(path=self.screenshots / f"{name}.png")

    def page(self, page, address):
        """Images, links, and the width on a phone of one page."""
        page.set_viewport_size(DESKTOP)
        self.open(page, address)
        for source in page.evaluate(IMAGES_WITHOUT_TEXT):
            self.report(f"image without alternative text: {source}")
        for source in page.evaluate(BROKEN_IMAGES):
            self.report(f"image that is not shown: {source}")
        for link in dict.fromkeys(page.evaluate(LINKS)):
            self.link(link)
        page.set_viewport_size(PHONE)
        for element in page.evaluate(TOO_WIDE):
            self.report(f"wider than a phone: {element}")

    def link(self, link):
        """Follows an internal link in the files, to its anchor."""
        if not link.startswith(self.base):
            return
        path, fragment = urllib.parse.urldefrag(link.removeprefix(self.base))
        file = self.site / urllib.parse.unquote(path.split("?")[0])
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file():
            self.report(f"broken link: {path}")
        elif fragment and urllib.parse.unquote(fragment) not in self.anchors(file):
            self.report(f"broken anchor: {path}#{fragment}")

    @staticmethod
    def _anchors(file):
        return Anchors(file.read_text(encoding="utf-8")).names if file.suffix == ".html" else ()

    def search(self, page):
        """The search finds the main function and leads to its page of the reference."""
        self.open(page, "")
        page.keyboard.press("/")
        page.keyboard.type(SEARCH, delay=20)
        result = page.locator(f".md-search a[href*='{FOUND}']").first
        try:
            result.wait_for(timeout=15_000)
            page.wait_for_timeout(500)  # the list slides in
            self.picture(page, "search")
            result.click()
            page.wait_for_url(f"**/{FOUND}**", timeout=15_000)
            page.wait_for_load_state("networkidle")
        except Exception as error:  # a timeout of Playwright
            self.picture(page, "search")
            self.report(f"the search for {SEARCH!r} does not lead to {FOUND}: {error}")

    def schemes(self):
        """The page follows the system's light or dark, and the button changes it, there and back."""
        names = {"light": "default", "dark": "slate"}
        for scheme, other in (("light", "dark"), ("dark", "light")):
            with self.window(DESKTOP, scheme) as page:
                self.open(page, "")
                self.picture(page, f"home-{scheme}")
                for expected in (scheme, other, scheme):
                    if page.evaluate(SCHEME) != names[expected]:
                        self.report(f"{scheme}: shows {page.evaluate(SCHEME)}, not {expected}")
                    page.locator(TOGGLE).click()

    def run(self):
        """Everything; gives the number of pages."""
        pages = addresses(self.site)
        with self.window(DESKTOP, "light") as page:
            for address in pages:
                self.page(page, address)
            page.set_viewport_size(DESKTOP)
            self.search(page)
            if self.screenshots:
                self.open(page, FOUND)
                self.picture(page, "api")
        self.schemes()
        if self.screenshots:
            with self.window(PHONE, "light") as page:
                self.open(page, "")
                self.picture(page, "home-phone")
        return len(pages)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("site", type=pathlib.Path, help="directory that mkdocs built")
    parser.add_argument("--screenshots", type=pathlib.Path, help="directory for pictures of pages")
    arguments = parser.parse_args()
    if not (arguments.site / "index.html").is_file():
        parser.error(f"{arguments.site} holds no built site (no index.html)")
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)

    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    system = next(filter(None, map(shutil.which, names)), None)
    with served(arguments.site) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system, args=FLAGS)
        check = Check(arguments.site, base, browser, arguments.screenshots)
        count = check.run()
        browser.close()
    for problem in check.problems:
        print(problem)
    print(f"{count} pages, {len(check.problems)} problems")
    return 1 if check.problems else 0


if __name__ == "__main__":
    sys.exit(main())
