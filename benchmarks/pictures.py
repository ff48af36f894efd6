"""The pictures of README and docs, taken from this checkout's own runs: `make demo`, a second run, `make pictures`.

The second run, such as `plumbline run --set ppo.kl_coef=0.2`, is what the compare page shows beside the first. The
pages are opened in Chromium (Debian's packages chromium and chromium-driver) and end up in docs/pictures/. For the
feedback page pairs are made from the champion's prompts first, which takes a minute.
"""

import subprocess
import sys
import time
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

from plumbline.errors import UserError
from plumbline.history.history import History
from plumbline.project.home import enter, find_home
from plumbline.web.security import open_keys

PORT = 4287
SITE = f"http://127.0.0.1:{PORT}"
FOLDER = Path("docs/pictures")
WIDTH = 1500
PATIENCE_SECONDS = 300


def main() -> None:
    home = find_home()
    enter(home)
    history = History(home)
    history.refresh()
    if not history.versions:
        raise UserError("There is no policy to show yet: run `make demo` first.")
    newest = next(iter(history.versions.values()))
    token = open_keys(home)[0].token
    server = subprocess.Popen([sys.executable, "-m", "plumbline", "ui", "--port", str(PORT)])
    browser = open_browser()
    try:
        visit_when_up(browser, f"{SITE}/?token={token}", server)
        take(browser, "lineage", f"/lineage/version/{newest.number}?depth=5")
        take(browser, "compare", "/compare")
        take(browser, "model", f"/models/{newest.number}")
        await_pair(browser)
        take(browser, "feedback", "/feedback")
        take(browser, "feedback-dark", "/feedback", dark=True)
        take(browser, "home", "/")  # last: what is due has been counted by now
    finally:
        browser.quit()
        server.terminate()
        server.wait()


def open_browser() -> Chrome:
    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(option)
    return Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))


def visit_when_up(browser: Chrome, address: str, server: "subprocess.Popen[bytes]") -> None:
    """Open an address as soon as the server answers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            browser.get(address)
            return
        except Exception:  # Chromium names a refused connection in several ways
            time.sleep(0.5)
    raise UserError(f"{SITE} did not answer within {PATIENCE_SECONDS} s.")


def await_pair(browser: Chrome) -> None:
    """Give a name, and wait until there is a pair to judge."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        browser.get(f"{SITE}/feedback")
        if browser.find_elements(By.CSS_SELECTOR, "form[action='/feedback/verdicts']"):
            return
        for name in browser.find_elements(By.CSS_SELECTOR, "form[action='/feedback/name'] input[name=name]"):
            if name.is_displayed():
                name.send_keys("ada")
                name.submit()
        time.sleep(3)
    raise UserError(f"No pair was made within {PATIENCE_SECONDS} s.")


def take(browser: Chrome, name: str, path: str, dark: bool = False) -> None:
    """Photograph a page, as high as it is, up to two screens."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
    browser.get(SITE + path)
    browser.set_window_size(WIDTH, 900)
    height = min(int(browser.execute_script("return document.documentElement.scrollHeight")), 1500)
    browser.set_window_size(WIDTH, height + 140)  # the window has a frame even without a head
    FOLDER.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(FOLDER / f"{name}.png"))
    print(f"{FOLDER / name}.png: {browser.title}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
