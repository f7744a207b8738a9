"""A real Chromium that looks at a real server. A page that complains on its console, or asks anybody but the server, fails its test."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from zqyy_ai_tests.admin.live_clients import LONG_SECONDS

WIDE, NARROW = 1280, 390
expect.set_options(timeout=LONG_SECONDS * 1000)


@dataclass
class Visit:
    """`complaints` are what the page said on its console, and whom else it asked; a test that expects one takes it out."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.origin + path)

    def open_live(self, path: str) -> None:
        """And wait until it hears of what happens."""
        self.open(path)
        expect(self.page.locator("#live-state")).to_have_text("实时")

    def says(self, text: str) -> None:
        """What the last action told."""
        expect(self.page.locator("#flash > p, #drawer-flash > p").filter(has_text=text).last).to_be_visible()

    def agree(self) -> None:
        """To the question before an action."""
        self.page.locator("#confirm button[value=yes]").click()

    def expect_refusals(self) -> None:
        """The browser itself notes each answer of 400 and more on the console."""
        self.complaints[:] = [told for told in self.complaints if "status of 4" not in told and "Error Code 4" not in told]


@contextmanager
def visit(browser: Browser, origin: str, token: str, width: int = WIDE) -> Iterator[Visit]:
    context: BrowserContext = browser.new_context(viewport={"width": width, "height": 900}, locale="zh-CN", timezone_id="America/Lima")
    context.set_default_timeout(LONG_SECONDS * 1000)
    visiting = Visit(context.new_page(), origin)

    def heard(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            visiting.complaints.append(message.text)

    def asked(request: Request) -> None:
        if urlsplit(request.url).scheme not in {"data", "blob"} and not request.url.startswith(origin + "/"):
            visiting.complaints.append(f"asked {request.url}")

    visiting.page.on("console", heard)
    visiting.page.on("pageerror", lambda error: visiting.complaints.append(str(error)))
    context.on("request", asked)
    visiting.open("/login")
    visiting.page.fill("#token", token)
    visiting.page.get_by_role("button", name="登录").click()
    expect(visiting.page.locator("#main")).to_be_visible()
    try:
        yield visiting
        assert not visiting.complaints, visiting.complaints
    finally:
        context.close()
