#!/usr/bin/env python3
"""Prove the page of `chat --serve` in headless Chromium.

    scripts/proofs-page.py target/release/chat MODEL ADAPTER

The page of `chat MODEL --adapter tuned=ADAPTER --serve` is used as a person uses it. A line says of each:

answer      the tokens of an answer arrive one after the other; Escape stops it; it can be copied
compare     two models answer side by side, differently; to write an answer again without sampling gives the same text
talk        the next question is asked with what was said before; a new conversation forgets it
markup      markup and scripts in an answer are shown as text and do not run
problem     the page shows why the server has refused a request
screens     nothing is wider than the screen of a phone; colours follow the wish for a dark screen
origin      the page asks no other server, and the browser has no complaint

Exits with 1 when a proof fails. Needs playwright, and chromium on the PATH.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

try:
    from playwright.sync_api import Page, Route, expect, sync_playwright
except ImportError as missing:
    sys.exit(f"{missing}: pip install playwright")

MARKUP = '<img src=x onerror="window.hasRun = true"><script>window.hasRun = true</script><b>bold</b>'
COMPLETIONS = "**/v1/chat/completions"


def base(page: Page) -> str:
    """The name of the model without the adapter."""
    return next(name for name in page.locator("#first option").all_inner_texts() if name != "tuned")


def new(page: Page, **settings: object) -> None:
    """Begins a conversation with these settings, and models by name."""
    page.get_by_text("New conversation").click()
    for name in ("first", "second"):
        if name in settings:
            page.locator(f"#{name}").select_option(settings[name])
    page.evaluate("document.querySelector('details').open = true")
    for name in ("temperature", "max_tokens", "seed", "system"):
        page.locator(f"#{name}").fill(str(settings.get(name, "")))


def ask(page: Page, question: str) -> None:
    page.locator("#message").fill(question)
    page.keyboard.press("Enter")


def answers(page: Page) -> list[str]:
    """The texts of all answers, once they are complete."""
    expect(page.locator("#send")).to_be_visible(timeout=60_000)
    return page.locator(".answer .text:not(.problem)").all_text_contents()


def answer(page: Page) -> None:
    new(page, max_tokens=4000, temperature=2, seed=1)
    ask(page, "Hello")
    growing = page.locator(".answer .text").first
    seen = [""]
    for _ in range(3):
        expect(growing).not_to_have_text(seen[-1])
        seen.append(growing.text_content())
        assert seen[-1].startswith(seen[-2]), seen
    assert page.locator("#stop").is_visible(), "the answer is still being written"
    page.keyboard.press("Escape")
    [text] = answers(page)
    assert text.startswith(seen[-1]) and len(text) < 4000, (text, seen)
    page.get_by_text("Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == text


def compare(page: Page) -> None:
    new(page, first=base(page), second="tuned", max_tokens=12)
    ask(page, "Hello")
    before = answers(page)
    assert len(before) == 2 and before[0] != before[1], before
    assert page.locator(".answer h2").all_text_contents() == [base(page), "tuned"]
    page.get_by_text("Regenerate").last.click()
    assert answers(page) == before


def talk(page: Page) -> None:
    new(page, second="", max_tokens=3, system="Be brief.")
    ask(page, "One")
    [first] = answers(page)
    with page.expect_request(COMPLETIONS) as request:
        ask(page, "Two")
    said = [(message["role"], message["content"]) for message in json.loads(request.value.post_data)["messages"]]
    assert said == [("system", "Be brief."), ("user", "One"), ("assistant", first), ("user", "Two")], said
    assert len(answers(page)) == 2
    new(page, max_tokens=3)
    with page.expect_request(COMPLETIONS) as request:
        ask(page, "Three")
    assert json.loads(request.value.post_data)["messages"] == [{"role": "user", "content": "Three"}]
    answers(page)


def markup(page: Page) -> None:
    def fulfil(route: Route) -> None:
        chunk = json.dumps({"choices": [{"delta": {"content": MARKUP}}]})
        route.fulfill(content_type="text/event-stream", body=f"data: {chunk}\n\ndata: [DONE]\n\n")

    new(page)
    page.route(COMPLETIONS, fulfil)
    ask(page, MARKUP)
    assert answers(page) == [MARKUP], answers(page)
    assert page.locator("main img, main b, main script").count() == 0
    assert page.evaluate("window.hasRun") is None
    page.unroute(COMPLETIONS)


def problem(page: Page) -> None:
    new(page, max_tokens=0)
    ask(page, "Hello")
    assert answers(page) == [""]
    shown = page.locator(".problem").text_content()
    assert shown == "max_tokens: 1 or more expected, found 0", shown


def screens(page: Page) -> None:
    new(page, first=base(page), second="tuned", max_tokens=200)
    ask(page, "a" * 500)
    answers(page)
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    inside = "element => element.getBoundingClientRect().right <= 360"
    assert all(element.evaluate(inside) for element in page.locator(".answer, #send, select").all() if element.is_visible())
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(lightness)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(lightness)
    assert min(light) > 200 and max(dark) < 60, (light, dark)


def main(chat: str, model: str, adapter: str) -> int:
    chromium = shutil.which("chromium") or sys.exit("there is no chromium on the PATH")
    command = [chat, model, "--adapter", f"tuned={adapter}", "--serve", "127.0.0.1:0", "--device", "cpu"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    failed = 0
    try:
        address = server.stdout.readline().strip()
        if not address:
            return 1  # The server has said why.
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
            page = context.new_page()
            asked, complaints = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            page.goto(address)
            expect(page.locator("#first option")).to_have_count(2)

            def origin(_: Page) -> None:
                assert all(url.startswith((address, "data:")) for url in asked), asked
                # Chromium itself notes the status 400 of the request that is refused on purpose.
                others = [text for text in complaints if "status of 400" not in text]
                assert not others, others

            for proof in (answer, compare, talk, markup, problem, screens, origin):
                try:
                    proof(page)
                    print(f"{proof.__name__:<12}ok")
                except Exception as wrong:  # playwright has several kinds
                    failed = 1
                    print(f"{proof.__name__:<12}FAILED: {wrong}")
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
